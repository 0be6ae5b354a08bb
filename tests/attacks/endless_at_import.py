"""Never finishes importing, and does not listen to signals."""
import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    pass
