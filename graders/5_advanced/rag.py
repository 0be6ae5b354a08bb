"""What right retrieval for a language model does."""

import re

import torch

from kata.grading import beside, booleans, check, choice, failure, indices, inputs_after, normal, size, text

FEW = {"N": (1, 2, 4), "L": (1, 3, 5), "V": (2, 3, 5), "Q": (2, 4)}


def words(ids):
    """Tokens that are strings, w0 and W0 being two."""
    return ["wW"[i % 2] + str(i // 2) for i in ids.tolist()]


# Chunks.


@check(points=1, sizes={"C": (1, 2, 4)}, C=size("C"), length=choice(2, 3, 5), overlap=choice(1, 2, 4), draws=2)
def chunks_begin_a_stride_apart(impl, C, length, overlap):
    """Neighbouring chunks share `overlap` tokens: each begins size - overlap tokens after the one before it."""
    chunks = impl.chunk([f"w{i}" for i in range(C * length + overlap)], length + overlap, overlap)
    return {f"C = {C} chunks of size {length + overlap}": chunks}


@check(points=2, after=chunks_begin_a_stride_apart, length=choice(2, 3, 4), overlap=choice(1, 2, 3), draws=3)
def chunks_end_with_the_text(impl, length, overlap):
    """The last chunk is the first that reaches the end of the text, shorter if need be; none follows that holds nothing new.

    (size is length + overlap; the texts have from 0 tokens to 2 · size + 1.)
    """
    size = length + overlap
    return {f"{n} tokens": impl.chunk(list(range(n)), size, overlap) for n in range(2 * size + 2)}


@check(points=1, after=chunks_begin_a_stride_apart, size=choice(1, 3))
def overlap_is_less_than_size(impl, size):
    """Without an overlap chunks are side by side; a negative one, or one of size or more, raises ValueError."""
    tokens = list("abcdefg")
    wrong = {f"overlap {overlap}": failure(impl.chunk, tokens, size, overlap)[0] for overlap in (-1, size, size + 1)}
    return {"overlap 0": impl.chunk(tokens, size, 0), **wrong, "size 0": failure(impl.chunk, tokens, 0, 0)[0]}


# A search by words.


def scores_of(impl, documents, query, **options):
    """Of each document, whatever floating-point type they came in."""
    scores = impl.BM25(documents, **options).scores(query)
    return scores.double() if scores.is_floating_point() else scores


def all_terms(impl, documents, terms, **options):
    index = impl.BM25(documents, **options)
    return {f"query [{term!r}]": index.scores([term]).double() for term in terms}


@check(points=1, sizes={"N": (2, 3, 5)}, N=size("N"))
def rare_terms_weigh_more(impl, N):
    """A term in n of N documents has idf ln(1 + (N - n + 0.5) / (n + 0.5)), above 0 even if n is N.

    (Document i holds w0 to wi. Scores are those of single terms, once each, with b = 0.)
    """
    documents = [[f"w{j}" for j in range(i + 1)] for i in range(N)]
    return all_terms(impl, documents, [f"w{j}" for j in range(N)], k1=1.5, b=0.0)


@check(points=1, after=rare_terms_weigh_more, f=choice(2, 3, 7), k1=choice(0.0, 0.5, 2.5), draws=4)
def occurrences_saturate(impl, f, k1):
    """f occurrences of a term count f · (k1 + 1) / (f + k1) when b is 0: they gain less and less, and never more than k1 + 1."""
    documents = [["a"] * f + ["b"], ["a", "b", "b"], ["b", "c"]]
    return all_terms(impl, documents, ["a", "b"], k1=k1, b=0.0)


@check(points=1, after=occurrences_saturate, long=choice(3, 6), k1=choice(0.5, 2.0), b=choice(0.3, 1.0), draws=3)
def long_documents_need_more(impl, long, k1, b):
    """b says how much of the length is made up for: k1 is multiplied by 1 - b + b · length / mean length."""
    documents = [["a"], ["a", *"bcdefg"[:long]], ["a", "a", "b", "b", "b"], ["c", "d", "c", "c"]]
    return all_terms(impl, documents, ["a", "b", "c"], k1=k1, b=b)


@check(
    points=2,
    after=long_documents_need_more,
    sizes=FEW,
    documents=indices("N L", below="V"),
    full=booleans("N L", share=0.7),
    query=indices("Q", below="V"),
)
def query_terms_add_up(impl, documents, full, query):
    """A query's score is the sum over its terms; one that is repeated counts each time, one that no document has adds 0.

    (Document i holds the tokens documents[i] where full.)
    """
    documents, query = [row[keep] for row, keep in zip(documents, full, strict=True)], [*query, query[0]]
    numbers = [row.tolist() for row in documents], [*map(int, query), -1]
    strings = list(map(words, documents)), [*words(torch.stack(query)), "unknown"]
    return {
        "integers": scores_of(impl, *numbers),
        "strings": scores_of(impl, *strings, k1=0.9, b=0.4),
        "positional k1 and b": impl.BM25(strings[0], 0.9, 0.4).scores(strings[1]).double(),
        "an empty query": scores_of(impl, numbers[0], []),
    }


@check(points=1, after=long_documents_need_more, length=choice(2, 4))
def empty_documents_score_zero(impl, length):
    """Empty documents score 0, and count among the documents and in the mean length; there may be no others, or none at all."""
    return {
        "some are empty": scores_of(impl, [[], ["a"] * length, ["a", "b"], []], ["a", "b", "a"]),
        "all are empty": scores_of(impl, [[], []], ["a"]),
        "no document": scores_of(impl, [], ["a"]).tolist(),
    }


@check(points=1, after=query_terms_add_up)
def index_is_asked_again_and_again(impl):
    """Queries do not change an index, nor do they or the index change what they were given."""
    documents, query = [["b", "a"], ["a"], ["c", "b", "b"]], ["b", "a", "b", "z"]
    index = impl.BM25(documents)
    first = index.scores(query).double()
    index.scores(["z", "c"])
    return {
        "first": first,
        "later": index.scores(query).double(),
        "arguments": [inputs_after(impl.BM25, documents), inputs_after(index.scores, query)],
    }


# A search by vectors.


@check(
    points=2,
    sizes={"Q": (1, 2, 3), "N": (1, 3, 5), "D": (2, 3, 4)},
    queries=normal("Q D"),
    index=normal("N D"),
    dtype=choice(torch.float64, torch.float32),
    long=choice(0.25, 8.0),
)
def nearest_by_angle(impl, queries, index, dtype, long):
    """dense_search ranks by the cosine of the angle, the largest first: how long a vector is does not count.

    (The rows are multiplied by long to the power of 0, 1, 2 …)
    """
    queries = queries * long ** torch.arange(len(queries))[:, None]
    index = index * long ** torch.arange(len(index))[:, None]
    cosines, ids = impl.dense_search(queries.to(dtype), index.to(dtype), len(index))
    return {"cosines": cosines, "ids": ids}


@check(
    points=1,
    after=nearest_by_angle,
    sizes={"Q": (2,), "N": (3, 5), "D": (3,)},
    queries=normal("Q D"),
    index=normal("N D"),
)
def k_may_be_less_or_more(impl, queries, index):
    """Only the k nearest are given; all, if k is more than there are."""
    found = {k: impl.dense_search(queries, index, k) for k in (1, 2, len(index) + 2)}
    return {f"k = {k}": {"cosines": cosines, "ids": ids} for k, (cosines, ids) in found.items()}


@check(points=1, after=nearest_by_angle, sizes={"D": (2, 3)}, queries=normal("2 D"), index=normal("3 D"), zero=choice(0, 2))
def zero_vectors_are_like_nothing(impl, queries, index, zero):
    """The cosine with a vector of zeros is 0, in queries and in the index; it is never NaN."""
    queries[1], index[zero] = 0.0, 0.0
    cosines, ids = impl.dense_search(queries, index, 3)
    return {"cosines": cosines, "ids for the query that is not zero": ids[0]}


@check(
    points=1,
    after=nearest_by_angle,
    sizes={"N": (2, 6, 40)},
    axes=indices("N", below=2),
    negative=booleans("N"),
    length=choice(0.5, 4.0),
)
def lower_ids_win_ties(impl, axes, negative, length):
    """Of vectors at the same angle the one with the lower id comes first.

    (index[i] has ±length on the axis axes[i], and 0 elsewhere, so that all cosines are 1, 0 or -1.)
    """
    index = torch.zeros(len(axes), 2, dtype=torch.float64)
    index[torch.arange(len(axes)), axes] = torch.where(negative, -length, length).double()
    queries = torch.tensor([[4.0, 0.0], [0.0, 0.5]], dtype=torch.float64)
    return {f"k = {k}": impl.dense_search(queries, index, k)[1] for k in (1, len(axes))}


# One ranking from several.


@check(points=2, sizes={"N": (2, 3, 5)}, rankings=indices("3 N", below=6, unique=True), k=choice(0.5, 10), draws=2)
def ranks_are_fused(impl, rankings, k):
    """The score of an id is the sum of 1 / (k + rank) over the rankings that contain it; ranks begin at 1, and k is 60 if not given."""
    ranked = [row.tolist() for row in rankings]
    ranked[1] = ranked[1][:-1]
    fused = {f"k = {number}": impl.reciprocal_rank_fusion(ranked, number) for number in (k, 0)}
    fused["k not given"] = impl.reciprocal_rank_fusion(ranked)
    return {name: {"of each id": dict(pairs), "in order": [score for _, score in pairs]} for name, pairs in fused.items()}


@check(points=1, after=ranks_are_fused, letters=text(6, "abcdefgh"), draws=2)
def fused_ties_keep_their_order(impl, letters):
    """Of ids with equal scores the one comes first that is met first, reading the rankings one after the other."""
    once = list(dict.fromkeys(letters))
    others = [letter.upper() for letter in once]
    cases = {
        "two orders": [once, once[::-1]],
        "two orders, the other way round": [once[::-1], once],
        "nothing in common": [once, others],
        "nothing in common, the other way round": [others, once],
        "one ranking is empty": [[], once],
        "no ranking": [],
    }
    return {name: [item for item, _ in impl.reciprocal_rank_fusion(rankings)] for name, rankings in cases.items()}


# Passages that differ.


@check(points=1, sizes={"N": (1, 3, 5), "D": (3,)}, query=normal("D"), candidates=normal("N D"), long=choice(0.25, 8.0))
def first_choice_is_the_most_similar(impl, query, candidates, long):
    """The first choice is the candidate most similar to the query by cosine, whatever trade_off; if that is 1, so are all others.

    (The candidates are multiplied by long to the power of 0, 1, 2 …)
    """
    candidates = candidates * long ** torch.arange(len(candidates))[:, None]
    choose = impl.maximal_marginal_relevance
    firsts = {f"the first, trade_off = {trade_off}": choose(query, candidates, 1, trade_off) for trade_off in (0.0, 0.5, 1.0)}
    return firsts | {"all, trade_off = 1": choose(query, candidates, len(candidates), 1.0)}


@check(
    points=2,
    after=first_choice_is_the_most_similar,
    sizes={"N": (3, 6), "D": (3,)},
    query=normal("D", mean=1.0),
    candidates=normal("N D", mean=0.5),
    long=choice(0.25, 8.0),
    draws=2,
)
def later_choices_differ_from_all_chosen(impl, query, candidates, long):
    """Each later choice has the most of trade_off · cos(query, i) - (1 - trade_off) · (its greatest cosine with one chosen before).

    (The candidates are multiplied by long to the power of 0, 1, 2 …)
    """
    candidates = candidates * long ** torch.arange(len(candidates))[:, None]
    choose = impl.maximal_marginal_relevance
    chosen = {f"trade_off = {t}": choose(query, candidates, len(candidates), t) for t in (0.3, 0.5, 0.8, 0.0)}
    return chosen | {"two, trade_off = 0": choose(query, candidates, 2, 0.0)}


@check(points=1, after=later_choices_differ_from_all_chosen, length=choice(0.5, 4.0), k=choice(2, 4))
def choices_end_and_ties_go_down(impl, length, k):
    """At most k are chosen, all if k is more than there are; of equal candidates the lower id is taken.

    (The candidates stand on the axes, so that many are equally good.)
    """
    axes = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]], dtype=torch.float64)
    candidates, query = axes * length, torch.tensor([2.0, 0.0], dtype=torch.float64)
    return {f"k = {n}": impl.maximal_marginal_relevance(query, candidates, n, 0.5) for n in (k, 9)}


# The prompt.


def by_words(text):
    """The number of words."""
    return len(text.split())


def by_words_and_three_more(text):
    """The number of words and, as many tokenizers do, some more for each text."""
    return len(text.split()) + 3


def by_words_and_lines(text):
    """The number of words and of line breaks."""
    return len(text.split()) + text.count("\n")


PASSAGES = ["A prism\n\nparts light. \n", "The rainbow is made by two refractions and one reflexion.", "Blue is refracted more than red."]
QUESTION = " Why  is\nthe bow coloured?"


@check(points=1, question=choice(QUESTION, "What is white?"), n=choice(1, 3), draws=2)
def prompt_has_its_blocks(impl, question, n):
    """With room for all, the prompt is INSTRUCTION, the sources [n] to [1] so that the best is last, and the question.

    (Spaces and line breaks in question and passages stay as they are. Of the many passages some are alike.)
    """
    count = beside(impl, by_words)
    return {
        "prompt": impl.build_prompt(question, PASSAGES[:n], 1000, count),
        "without passages": impl.build_prompt(question, [], 1000, count),
        "many passages": impl.build_prompt(question, [f"It is passage {i % 9}." for i in range(9 + n)], 1000, count),
    }


def prompts(impl, words, given):
    """Prompts with room for more and more of the passages, and the numbers of the sources in each."""
    passages = [" ".join([letter] * n) for letter, n in zip("abcde", words.tolist(), strict=True)]
    count, found = beside(impl, given), {}
    least = given(impl.build_prompt(QUESTION, [], 1000, count))
    for room in range(least, least + 60, 6):
        prompt = impl.build_prompt(QUESTION, passages, room, count)
        found[f"room for {room - least} more than the question"] = {"sources": re.findall(r"^\[\d+\]", prompt, re.M), "prompt": prompt}
    return found


WORDS = indices("5", below=22, start=2, unique=True)


@check(points=2, after=prompt_has_its_blocks, words=WORDS, draws=2)
def prompt_takes_whole_passages_that_fit(impl, words):
    """A passage is kept if the whole prompt with it has at most max_tokens; one that does not fit is left out, and the next is tried.

    A source keeps the number of its place in passages. (Passage i has words[i] words; count gives the number of words, of which a
    source has one more: its number.)
    """
    return prompts(impl, words, by_words)


@check(points=1, after=prompt_takes_whole_passages_that_fit, words=WORDS, draws=2)
def whole_prompt_is_counted(impl, words):
    """It is the whole prompt that is counted: the sum over its parts may be more, or less.

    (Passage i has words[i] words. Here count adds something for each text, or for line breaks.)
    """
    return {
        "count gives words, and three for each text": prompts(impl, words, by_words_and_three_more),
        "count gives words and line breaks": prompts(impl, words, by_words_and_lines),
    }


@check(points=1, after=prompt_has_its_blocks, missing=choice(1, 3))
def question_is_never_cut(impl, missing):
    """If the prompt has more than max_tokens even without a passage, ValueError is raised; if it has just as many, it is returned."""
    count = beside(impl, by_words)
    least = by_words(impl.build_prompt(QUESTION, [], 1000, count))
    return {
        "too few": failure(impl.build_prompt, QUESTION, PASSAGES, least - missing, count)[0],
        "too few, and no passages": failure(impl.build_prompt, QUESTION, [], least - missing, count)[0],
        "just enough": impl.build_prompt(QUESTION, PASSAGES, least, count),
    }


# How good the search is.


def judged(rankings, good):
    """Rankings as lists, and the sets of what is relevant to each query."""
    return [row.tolist() for row in rankings], [set(row.nonzero().flatten().tolist()) for row in good]


@check(
    points=1,
    sizes={"Q": (1, 2, 4), "L": (2, 3, 5)},
    rankings=indices("Q L", below=8, unique=True),
    good=booleans("Q 8", share=0.4, some=True),
)
def recall_is_the_share_that_is_found(impl, rankings, good):
    """Recall at k is the share of the relevant ids that are among the first k, averaged over the queries."""
    rankings, relevant = judged(rankings, good)
    seen = {f"k = {k}": impl.recall_at_k(rankings, relevant, k) for k in (1, 2, 4, 9)}
    return seen | {"3 of 4 are among the first 20 of 30": impl.recall_at_k([list(range(30))], [{2, 15, 19, 20}], 20)}


@check(
    points=1,
    sizes={"Q": (1, 2, 4), "L": (2, 3, 5)},
    rankings=indices("Q L", below=8, unique=True),
    good=booleans("Q 8", share=0.3, some=True),
    draws=2,
)
def first_relevant_id_sets_the_rank(impl, rankings, good):
    """A query counts 1 / rank of the first relevant id, ranks from 1, and 0 if there is none in its ranking; of these the mean is taken."""
    return {
        "mean": impl.mean_reciprocal_rank(*judged(rankings, good)),
        "the first of 30 ids that is relevant is the 16th": impl.mean_reciprocal_rank([list(range(30))], [{15, 20}]),
    }


@check(
    points=1,
    after=(recall_is_the_share_that_is_found, first_relevant_id_sets_the_rank),
    rankings=indices("4 3", below=6, unique=True),
    good=booleans("4 6", share=0.4, some=True),
    none=choice(0, 3),
)
def queries_without_an_answer_are_left_out(impl, rankings, good, none):
    """Queries to which nothing is relevant are left out of both means; if there are no others, these are 0.0.

    (rankings[none] belongs to such a query; the ranking of another one is empty.)
    """
    rankings, relevant = judged(rankings, good)
    relevant[none], rankings[1] = set(), []
    cases = {"some": (rankings, relevant), "nothing is relevant": (rankings[:1], [set()]), "no query": ([], [])}
    return {name: {"recall": impl.recall_at_k(*case, 2), "mrr": impl.mean_reciprocal_rank(*case)} for name, case in cases.items()}


# What was given.


@check(points=1, after=nearest_by_angle, queries=normal("2 3"), index=normal("4 3"), draws=2)
def arguments_stay_as_they_are(impl, queries, index):
    """No function changes its arguments: vectors are not normalised in place, nothing is taken out of lists and sets, or turned round."""
    tokens, rankings, relevant = list("abcdefg"), [[3, 1, 2], [1, 4]], [{1, 5}, {4, 2}]
    calls = {
        "chunk": (impl.chunk, tokens, 3, 1),
        "dense_search": (impl.dense_search, queries, index, 2),
        "reciprocal_rank_fusion": (impl.reciprocal_rank_fusion, rankings, 5),
        "maximal_marginal_relevance": (impl.maximal_marginal_relevance, queries[0], index, 2, 0.5),
        "build_prompt": (impl.build_prompt, "Why?", ["one", "two words", "three"], 60, beside(impl, by_words)),
        "recall_at_k": (impl.recall_at_k, rankings, relevant, 2),
        "mean_reciprocal_rank": (impl.mean_reciprocal_rank, rankings, relevant),
    }
    return {name: inputs_after(*call)[:2] for name, call in calls.items()}
