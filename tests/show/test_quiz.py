"""The quiz that needs no script."""

import re

import pytest
import torch

from invkit.show import quiz

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
RIGHT, WRONG = torch.zeros(6, 1, 8, 8), torch.ones(6, 1, 8, 8)
QUESTION = "Which was seen?"


def rounds(html: str) -> list[str]:
    return re.findall(r"<fieldset>.*?</fieldset>", html, re.S)


def test_each_round_has_one_right_candidate_and_an_answer_that_names_it():
    html = quiz(IMAGES, RIGHT, WRONG, question=QUESTION)._repr_html_()
    pictures = {False: set(), True: set()}  # of right candidates and of wrong ones
    for text in rounds(html):
        assert text.count('class="right"') == text.count('class="wrong"') == 1
        answer = re.search(r"<summary>Answer</summary>(\w)<", text)[1]
        for source, letter, kind in re.findall(
            r'<label><img src="([^"]+)" alt="Candidate (\w)"><input[^>]*class="(\w+)"', text
        ):
            assert (kind == "right") == (letter == answer)
            pictures[kind == "right"].add(source)
    assert len(rounds(html)) == 6
    assert len(pictures[True]) == len(pictures[False]) == 1
    assert pictures[True] != pictures[False]


def test_the_place_of_the_right_one_varies_and_the_page_needs_no_script():
    asked = quiz(IMAGES, RIGHT, WRONG, question=QUESTION)
    assert len({first for *_, first in asked.rounds}) == 2
    html = asked._repr_html_()
    assert "<script" not in html
    assert html.count("<img") == html.count("alt=") == 18
    assert html == quiz(IMAGES, RIGHT, WRONG, question=QUESTION)._repr_html_()


@pytest.mark.parametrize(
    ("right", "question", "message"),
    [
        (RIGHT[:2], QUESTION, "needs one right and one wrong candidate"),
        (RIGHT + 2, QUESTION, r"quiz: right: pixels should lie in \[0, 1\]"),
        (RIGHT, " ", "question is empty"),
    ],
)
def test_bad_input_is_refused_by_name(right, question, message):
    with pytest.raises(ValueError, match=message):
        quiz(IMAGES, right, WRONG, question=question)
