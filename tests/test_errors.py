from dermaffinity.errors import did_you_mean, nearest


def test_the_nearest_is_found_whatever_its_case():
    assert nearest("MEL", ["nv", "mel"]) == ["mel"]
    assert nearest("xyz", ["nv", "mel"]) == []


def test_a_hint_names_as_many_near_words_as_asked_for_or_says_nothing():
    assert did_you_mean("sigm", ["sigmoid", "sigma", "margin"]) == " (did you mean 'sigma'?)"
    assert did_you_mean("sigm", ["sigmoid", "sigma", "margin"], 3) == " (did you mean 'sigma' or 'sigmoid'?)"
    assert did_you_mean("tau", ["sigma"]) == ""
