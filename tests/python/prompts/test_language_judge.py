"""The judge of an answer's language: sentences, copies of the prompt, files, and labels made by hand."""

from __future__ import annotations

import pytest
from cna import judges, tasks
from cna.judges import Judge, LanguageJudge
from cna.measure.outcomes import outcome_of
from cna.prompts.judges.languages import FUNCTION_WORDS

SENTENCES = {
    "de": ["Der Hund liegt unter dem Tisch und schläft.", "Ich habe heute keine Zeit für dich."],
    "en": ["The dog is asleep under the table.", "I don't have any time for you today."],
    "es": ["El perro duerme debajo de la mesa.", "Hoy no tengo tiempo para ti.", "¡Buenos días!"],
    "fr": ["Le chien dort sous la table de la cuisine.", "Je n'ai pas le temps aujourd'hui."],
    "it": ["Il cane dorme sotto il tavolo della cucina.", "Oggi non ho tempo per te."],
    "pt": ["O cão dorme embaixo da mesa da cozinha.", "Hoje não tenho tempo para você."],
}


@pytest.mark.parametrize("language", SENTENCES)
def test_a_plain_sentence_is_in_its_language_and_in_no_other(language):
    assert set(SENTENCES) == set(FUNCTION_WORDS)
    for sentence in SENTENCES[language]:
        for code in SENTENCES:
            judge = LanguageJudge(code, code)
            assert isinstance(judge, Judge)
            assert judge(sentence) == (code == language), (sentence, judge.language_of(sentence))


@pytest.mark.parametrize("answer", ["", "  \n", "Madrid", "3.14", "1, 2, 3", "xyz xyz xyz"])
def test_text_without_function_words_is_in_no_language(answer):
    for code in FUNCTION_WORDS:
        assert LanguageJudge(code, code).language_of(answer) is None


def test_what_is_copied_or_quoted_does_not_count_beside_other_text():
    spanish, prompt = judges.get("spanish"), "Describe un bosque en otoño para los niños."
    about = "Un bosque en otoño para los niños is a Spanish phrase."
    assert not spanish(about, prompt)
    assert spanish(about)  # nothing says that it is a copy
    assert not spanish('"El bosque que está en la sierra" means a forest on a hill.')
    assert spanish("La frase \u201cthe forest that is on the hill\u201d habla de un bosque.")


def test_an_answer_that_is_nothing_but_a_copy_is_in_the_language_of_the_copy():
    prompt = "¿Qué es un río?"
    assert judges.get("spanish")("Qué es un río.", prompt)
    assert not LanguageJudge("english", "en")(prompt, prompt)
    assert judges.get("spanish")('"El río que nace en la sierra."', prompt)


def test_a_word_counts_once_however_often_it_is_said():
    looping = "The word is a non-fictional, " + "non-fictional, " * 20
    assert LanguageJudge("english", "en")(looping)


def test_a_tie_goes_to_the_language_that_is_asked_about():
    for code in ("es", "fr", "it"):
        assert LanguageJudge(code, code)("un volcan")


def test_the_least_share_of_function_words_can_be_set():
    text = "El xa xe xi xo xu ya ye yi yo yu za ze zi zo zu"
    assert LanguageJudge("some", "es", min_share=0.05)(text)
    assert not LanguageJudge("more", "es", min_share=0.5)(text)


def test_a_language_judge_survives_the_file(tmp_path):
    judge = LanguageJudge("french", "fr", min_share=0.2)
    judge.save(tmp_path / "judge.json")
    assert judges.load(tmp_path / "judge.json") == judge
    assert judges.from_dict({"kind": "language", "language": "es"}, "mine").name == "mine"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"language": "la"}, "LanguageJudge: expected a language of .*got 'la'; .*CallableJudge"),
        ({"language": ["es"]}, r"expected a language of .*got \['es'\]"),
        ({"language": "es", "name": ""}, "LanguageJudge: expected a name, got ''"),
        ({"language": "es", "min_share": 2}, "LanguageJudge: expected min_share .*got 2"),
        ({"language": "es", "min_share": "x"}, "LanguageJudge: expected min_share .*got 'x'"),
        ({"kind": []}, r"expected kind .*got \[\]; correct the kind"),
        ({}, r"judges\.from_dict: expected the fields .*no 'language'"),
        ({"language": "es", "patterns": []}, r"unknown \['patterns'\]"),
    ],
)
def test_a_bad_language_judge_gives_one_clear_error(values, message):
    with pytest.raises(ValueError, match=message):
        judges.from_dict({"kind": "language"} | values)


def test_an_answer_has_to_be_text():
    with pytest.raises(ValueError, match="expected an answer"):
        judges.get("spanish")(None)  # type: ignore[arg-type]


def test_the_spanish_judge_agrees_with_labels_made_by_hand_that_it_was_not_written_on():
    rows = judges.labelled_answers("language")
    steered = [r for r in rows if r["method"] != "none"]
    assert len(rows) >= 200 and len(steered) >= len(rows) / 3
    assert len({(r["method"], r["strength"]) for r in steered}) >= 8
    for some in (rows, steered, [r for r in rows if r["method"] == "none"]):
        found = judges.precision_recall(
            judges.get("spanish"),
            [r["answer"] for r in some],
            [r["spanish"] for r in some],
            [r["prompt"] for r in some],
        )
        print(f"{len(some)} answers: {found}")
        assert found.precision >= 0.93 and found.recall >= 0.97  # as measured, less two answers


def test_no_labelled_answer_is_to_a_prompt_of_the_task():
    task = tasks.load("answer-language")
    known = {*task.positive, *task.negative, *task.evaluation, *task.benign}
    assert not known & {r["prompt"] for r in judges.labelled_answers("language")}


def test_the_labelled_answers_are_distinct_and_say_where_they_are_from():
    rows = judges.labelled_answers("language")
    fields = {"id", "prompt", "method", "layer", "strength", "tokens", "answer"}
    assert all(set(r) == fields | {"spanish", "broken"} for r in rows)
    assert all(isinstance(r["spanish"], bool) and isinstance(r["broken"], bool) for r in rows)
    assert len({r["id"] for r in rows}) == len({r["answer"] for r in rows}) == len(rows)


def test_empty_and_looping_answers_are_broken_and_no_absence_of_spanish():
    """`broken` comes before the verdict, so such an answer is neither Spanish nor another one."""
    loop = "El más " + "más " * 30
    for text, tokens in (("", []), (loop, [1, *[2] * 31]), ("xyz " * 30, [3] * 30)):
        assert outcome_of(text, tokens, judges.get("spanish")(text)) == "broken"
