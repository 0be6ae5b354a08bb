"""Oracles of bert: what proves the reference right, independently of it."""

from __future__ import annotations

import pytest
import torch
from rooms import solution
from transformers import BertConfig, BertForMaskedLM, BertModel, DataCollatorForLanguageModeling
from transformers.tokenization_python import PreTrainedTokenizer

bert = solution("bert")

V, MAX_LEN, M, N, H, HIDDEN, SEGMENTS = 23, 9, 12, 3, 4, 20, 3
NAMES = {  # ours, and theirs
    "token_embedding": "bert.embeddings.word_embeddings",
    "position_embedding": "bert.embeddings.position_embeddings",
    "segment_embedding": "bert.embeddings.token_type_embeddings",
    "embedding_norm": "bert.embeddings.LayerNorm",
    "mlm_transform": "cls.predictions.transform.dense",
    "mlm_norm": "cls.predictions.transform.LayerNorm",
    "mlm_bias": "cls.predictions.bias",
}
IN_LAYERS = {
    "attn.q_proj": "attention.self.query",
    "attn.k_proj": "attention.self.key",
    "attn.v_proj": "attention.self.value",
    "attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "ff.up": "intermediate.dense",
    "ff.down": "output.dense",
    "norm2": "output.LayerNorm",
}


def theirs_of(name: str) -> str:
    for ours, theirs in NAMES.items():
        if name.startswith(ours):
            return name.replace(ours, theirs)
    _, number, rest = name.split(".", 2)
    ours = next(ours for ours in IN_LAYERS if rest.startswith(ours))
    return f"bert.encoder.layer.{number}.{rest.replace(ours, IN_LAYERS[ours])}"


@pytest.fixture(scope="module")
def pair():
    """Our model and Hugging Face's, the same random weights in both, and their pooler."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=V,
        hidden_size=M,
        num_hidden_layers=N,
        num_attention_heads=H,
        intermediate_size=HIDDEN,
        max_position_embeddings=MAX_LEN,
        type_vocab_size=SEGMENTS,
        attn_implementation="eager",
    )
    masked, whole = BertForMaskedLM(config).double().eval(), BertModel(config).double().eval()
    ours = bert.Bert(V, MAX_LEN, M, N, H, HIDDEN, SEGMENTS).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.7)
        state = {theirs_of(name): p.clone() for name, p in ours.named_parameters() if not name.startswith("pooler")}
        missing, unexpected = masked.load_state_dict(state, strict=False)
        masked.tie_weights()
        assert not unexpected
        assert set(missing) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}  # tied
        assert masked.cls.predictions.decoder.weight is masked.bert.embeddings.word_embeddings.weight
        state = {name.removeprefix("bert."): p for name, p in state.items() if name.startswith("bert.")}
        state |= {f"pooler.dense.{kind}": getattr(ours.pooler, kind).clone() for kind in ("weight", "bias")}
        whole.load_state_dict(state)
    return ours, masked, whole


def text(seed: int, *shape: int, below: int = V):
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def test_hidden_and_pooled_are_those_of_hugging_face(pair) -> None:
    ours, _, theirs = pair
    ids, segments = text(0, 3, 7), text(1, 3, 7, below=SEGMENTS)
    for chosen in (None, segments):
        hidden, pooled = ours(ids, chosen)
        wanted = theirs(ids, token_type_ids=chosen)
        torch.testing.assert_close(hidden, wanted.last_hidden_state)
        torch.testing.assert_close(pooled, wanted.pooler_output)


def test_padding_is_left_out_as_in_hugging_face(pair) -> None:
    ours, _, theirs = pair
    ids, keep = text(2, 3, 6), torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 1, 1]], dtype=torch.bool)
    wanted = theirs(ids, attention_mask=keep.long())
    hidden, pooled = ours(ids, keep=keep)
    torch.testing.assert_close(hidden[keep], wanted.last_hidden_state[keep])
    torch.testing.assert_close(pooled, wanted.pooler_output)


def test_padding_at_the_end_is_as_if_it_were_not_there(pair) -> None:
    ours, _, _ = pair
    ids = text(3, 2, 8)
    keep = (torch.arange(8) < 5).expand(2, 8)
    torch.testing.assert_close(ours(ids, keep=keep)[0][:, :5], ours(ids[:, :5])[0])


def test_logits_loss_and_gradients_are_those_of_hugging_face(pair) -> None:
    ours, theirs, _ = pair
    ids, labels = 1 + text(4, 2, 7, below=V - 1), text(5, 2, 7)  # id 0 is their padding, whose embedding gets no gradient
    labels[:, ::2] = -100
    logits = ours.mlm_logits(ours(ids)[0])
    wanted = theirs(ids, labels=labels)
    torch.testing.assert_close(logits, wanted.logits)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(loss, wanted.loss)
    ours.zero_grad()
    theirs.zero_grad()
    loss.backward()
    wanted.loss.backward()
    named = dict(theirs.named_parameters(remove_duplicate=False))
    for name, parameter in ours.named_parameters():
        if not name.startswith("pooler"):
            torch.testing.assert_close(parameter.grad, named[theirs_of(name)].grad, msg=name)


def test_more_tokens_than_positions_are_refused(pair) -> None:
    assert pair[0](text(6, 1, MAX_LEN))[0].shape == (1, MAX_LEN, M)
    with pytest.raises(ValueError, match=r"10.*9"):
        pair[0](text(6, 1, MAX_LEN + 1))


def test_a_model_of_bert_base_has_as_many_parameters_as_published() -> None:
    with torch.device("meta"):
        model = bert.Bert(30522, 512, 768, 12, 12, 3072)
    head = sum(p.numel() for name, p in model.named_parameters() if name.startswith("mlm"))
    assert sum(p.numel() for p in model.parameters()) - head == 109_482_240  # "110M"


class Words(PreTrainedTokenizer):
    """As much of a tokenizer as the collator asks for: numbers as words."""

    vocab_size = 50

    def get_vocab(self):
        return {f"w{i}": i for i in range(50)}

    def _tokenize(self, text, **kwargs):
        return text.split()

    def _convert_token_to_id(self, token):
        return int(token[1:])

    def _convert_id_to_token(self, index):
        return f"w{index}"


def shares(ids, inputs, labels):
    chosen = labels != -100
    seen, original = inputs[chosen], ids[chosen]
    return {
        "chosen": chosen.double().mean().item(),
        "hidden": (seen == 3).double().mean().item(),
        "unchanged": (seen == original).double().mean().item(),
        "a certain other id": ((seen == 17) & (original != 17)).double().mean().item(),
        "a special id": (seen == 1).double().mean().item(),
    }


def test_shares_are_those_of_hugging_faces_collator() -> None:
    ids = text(7, 400, 500, below=50)
    special = [0, 1, 2, 3]
    collator = DataCollatorForLanguageModeling(Words(pad_token="w0", mask_token="w3"), seed=0, mlm_probability=0.2)
    collator.generator = torch.Generator().manual_seed(0)
    theirs = shares(ids, *collator.torch_mask_tokens(ids.clone(), special_tokens_mask=ids < 4))
    ours = shares(ids, *bert.mask_tokens(ids, 3, 50, special, 0.2, torch.Generator().manual_seed(1)))
    for name, wanted in theirs.items():
        n = ids.numel() * (1 if name == "chosen" else theirs["chosen"])
        assert abs(ours[name] - wanted) < 6 * (2 * wanted * (1 - wanted) / n) ** 0.5, (name, ours[name], wanted)


def test_chosen_tokens_are_independent_of_each_other() -> None:
    """Of all pairs of tokens, neighbours in a row or in a column, the share rate² is chosen twice."""
    rate = 0.3
    labels = bert.mask_tokens(torch.full((500, 400), 7), 3, 50, [0, 1, 2, 3], rate, torch.Generator().manual_seed(2))[1]
    chosen = labels != -100
    for both in (chosen[1:] & chosen[:-1], chosen[:, 1:] & chosen[:, :-1]):
        assert abs(both.double().mean().item() - rate**2) < 8 * (rate**2 / both.numel()) ** 0.5


def test_draws_come_from_the_generator_alone() -> None:
    ids = text(8, 20, 30, below=50)
    before = torch.get_rng_state()
    one = bert.mask_tokens(ids, 3, 50, [0], 0.5, torch.Generator().manual_seed(0))
    other = bert.mask_tokens(ids, 3, 50, [0], 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_a_small_bert_learns_to_fill_gaps() -> None:
    """Rows of period 4: what is hidden stands four places to the left or to the right."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = bert.Bert(12, 8, 24, 1, 2, 48)
    for weight in (model.token_embedding.weight, model.position_embedding.weight, model.segment_embedding.weight):
        torch.nn.init.normal_(weight, std=0.2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss_of_a_batch():
        rows = torch.randint(2, 12, (48, 4), generator=generator).repeat(1, 2)
        inputs, labels = bert.mask_tokens(rows, 1, 12, [0, 1], 0.15, generator)
        logits = model.mlm_logits(model(inputs)[0])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    for _ in range(150):
        optimizer.zero_grad()
        loss = loss_of_a_batch()
        loss.backward()
        optimizer.step()
    assert loss_of_a_batch().item() < 1.2  # ln 10 = 2.3 is guessing
