"""`pytest graders` grades the exercises through kata's own plugin."""

pytest_plugins = ["kata.pytest_plugin"]
