"""File names and key components, one to one."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from b2fs.core.keys import NAME_MAX, QUOTE, component_of, is_hashed, is_plain, is_simple, name_of, odd_name, split_key

names = st.one_of(
    st.binary(min_size=1, max_size=20),
    st.text(st.sampled_from(f"a.{QUOTE}\u2400\u241f\u242101\x01\x7fé\\\uff3c"), min_size=1).map(str.encode),
).filter(lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b".."))


def is_key_text(component: str) -> bool:
    """Whether servers take it: UTF-8 without control characters, and no slash, which would make it two components."""
    component.encode()
    return all(ord(char) >= 32 and char not in "\x7f/\\" for char in component)


@given(names)
@example(f"{QUOTE}0".encode())
@example(f"{QUOTE}{QUOTE}0".encode())
@example(f"{QUOTE}FF".encode())
@example(b"\xff\xfe")
def test_every_name_comes_back_from_its_component(name: bytes) -> None:
    component = component_of(name)
    assert is_key_text(component)
    assert name_of(component) == name


@given(names, names)
def test_two_names_never_share_a_component(one: bytes, other: bytes) -> None:
    assert (component_of(one) == component_of(other)) == (one == other)


@pytest.mark.parametrize("component", ["", ".", "..", f"{QUOTE}0", f"{QUOTE}41", "plain", "a\u2401b"])
def test_what_others_have_put_into_a_bucket_has_a_name_of_its_own(component: str) -> None:
    name = name_of(component)
    assert name not in (b"", b".", b"..")
    assert b"/" not in name
    assert b"\0" not in name


@given(st.text(st.characters(codec="utf-8", exclude_characters="/"), max_size=5))
def test_ordinary_components_are_names_as_they_are(component: str) -> None:
    if component.isascii() and component.isprintable() and "\\" not in component and component not in ("", ".", ".."):
        assert name_of(component) == component.encode()
        assert component_of(component.encode()) == component


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("a", ("", "a")),
        ("a/b", ("a/", "b")),
        ("a/b/", ("a/", "b/")),
        ("a/", ("", "a/")),
        ("", ("", "")),
        ("//", ("/", "/")),
    ],
)
def test_split_key(key: str, parts: tuple[str, str]) -> None:
    assert split_key(key) == parts


@given(st.text("ab/", max_size=10))
def test_split_key_loses_nothing(key: str) -> None:
    prefix, component = split_key(key)
    assert prefix + component == key
    assert "/" not in component[:-1]


components = st.text(
    st.one_of(st.sampled_from(f"a.{QUOTE}\u2400~3\n\\\uff3c"), st.characters(codec="utf-8")), max_size=300
).map(lambda text: text.replace("/", ""))


@given(components, st.booleans())
@example("n" * 300, False)
@example("a\nb", False)
@example(f"a{QUOTE}b", False)
@example("n" * 255, True)
def test_what_has_no_name_of_its_own_is_given_one_that_a_file_can_have(component: str, shadowed: bool) -> None:
    name = odd_name(component, shadowed=shadowed)
    assert 0 < len(name) <= NAME_MAX
    assert b"/" not in name
    assert b"\0" not in name
    name.decode()
    assert name == odd_name(component, shadowed=shadowed) != odd_name(component, shadowed=not shadowed)
    assert is_hashed(name) or (shadowed and is_plain(component))


@given(components)
def test_plain_components_are_those_whose_names_lead_back(component: str) -> None:
    name = name_of(component)
    assert is_plain(component) == (component_of(name) == component and len(name) <= NAME_MAX)
    if is_simple(component):
        assert is_plain(component)
        assert name == component.encode()
