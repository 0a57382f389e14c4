"""Log lines: one record a line, fields kept, secrets never shown."""

from __future__ import annotations

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.config import SETTINGS, Secret, Settings
from raftkv.server.logs import LEVELS, configure, get_logger, set_level


@pytest.fixture(autouse=True)
def restore_logging():
    root = logging.getLogger("raftkv")
    before = (list(root.handlers), root.level, root.propagate)
    yield
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def capture(form: str, level: str = "debug", secrets: tuple[str, ...] = ()) -> io.StringIO:
    stream = io.StringIO()
    configure(level, form, secrets=secrets, stream=stream)
    return stream


def one_json(stream: io.StringIO) -> dict[str, object]:
    (line,) = stream.getvalue().splitlines()
    return json.loads(line)


def test_text_has_time_level_logger_message_and_fields():
    stream = capture("text")
    get_logger("server").info("became leader", term=3, peer="n2", note="two words", ok=True, none=None, data=b"\x00a")
    stamp, rest = stream.getvalue().split(" ", 1)
    assert rest == (
        'info raftkv.server became leader term=3 peer=n2 note="two words" ok=true none=null data="\\u0000a"\n'
    )
    assert len(stamp) == len("2026-01-02T03:04:05.678Z")
    assert stamp.endswith("Z")


def test_json_has_the_same_in_one_object():
    stream = capture("json")
    get_logger("raftkv.server").warning("slow disk", seconds=0.25, peers={"n1": [1, 2]}, far=float("inf"))
    shown = one_json(stream)
    assert list(shown) == ["time", "level", "logger", "message", "seconds", "peers", "far"]
    assert (shown["level"], shown["logger"], shown["message"]) == ("warning", "raftkv.server", "slow disk")
    assert (shown["seconds"], shown["peers"], shown["far"]) == (0.25, {"n1": [1, 2]}, "inf")


def test_fields_cannot_replace_what_every_record_has():
    stream = capture("json")
    get_logger("server").info("event", message="mine", time=1, error="text")
    shown = one_json(stream)
    assert shown["message"] == "event"
    assert (shown["field_message"], shown["field_time"], shown["field_error"]) == ("mine", 1, "text")


def test_percent_signs_are_only_text():
    stream = capture("text")
    get_logger("server").info("100% done %s")
    assert "100% done %s" in stream.getvalue()


def test_the_level_can_change_while_running():
    stream = capture("text", "warning")
    log = get_logger("server")
    log.info("unseen")
    set_level("debug")
    log.debug("seen")
    set_level("error")
    log.warning("unseen")
    assert [line.split()[3] for line in stream.getvalue().splitlines()] == ["seen"]
    with pytest.raises(KeyError):
        set_level("loud")


def test_levels_and_forms_are_those_of_the_settings():
    assert SETTINGS["loglevel"].kind.options == tuple(LEVELS)
    assert SETTINGS["logformat"].kind.options == ("text", "json")


def test_configuring_again_replaces_the_stream():
    first, second = capture("text"), capture("text")
    get_logger("server").info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_the_standard_library_alone_can_give_fields():
    stream = capture("json")
    logging.getLogger("raftkv.consensus").error("halted", extra={"fields": {"index": 7}})
    logging.getLogger("raftkv.consensus").info("plain %d", 5)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["message"], first["index"]) == ("halted", 7)
    assert second["message"] == "plain 5"


# -------------------------------------------------------------------- one record, one line


@pytest.mark.parametrize("form", ["text", "json"])
@given(message=st.text(), value=st.one_of(st.text(), st.binary(), st.dictionaries(st.text(), st.text())))
def test_no_input_makes_a_second_line(form, message, value):
    stream = capture(form)
    get_logger("server").info(message, value=value)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    text.encode("utf-8")
    if form == "json":
        assert json.loads(text)["message"] == message


def test_a_traceback_is_indented_in_text_and_a_string_in_json():
    for form in ("text", "json"):
        stream = capture(form)
        try:
            raise ValueError("bad\nthing")
        except ValueError:
            get_logger("server").exception("failed", step=2)
        text = stream.getvalue()
        if form == "json":
            shown = json.loads(text)
            assert shown["error"] == "ValueError: bad\nthing"
            assert "Traceback" in shown["traceback"]
        else:
            first, *rest = text.splitlines()
            assert first.endswith('raftkv.server failed step=2 error="ValueError: bad\\nthing"')
            assert rest
            assert all(line.startswith("    ") for line in rest)


# -------------------------------------------------------------------- secrets


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_secret_value_shows_as_stars_at_any_depth(form):
    stream = capture(form)
    secret = Secret("hunter2")
    get_logger("server").info(
        f"with {secret}", direct=secret, nested={"a": [secret]}, settings=Settings(requirepass=secret)
    )
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count("***") == 4


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_text_of_a_known_secret_is_masked_wherever_it_slipped_in(form):
    stream = capture(form, secrets=(Secret('hunt"er2'), "swordfish", "swordfish-long", "", "abc"))
    log = get_logger("server")
    try:
        raise RuntimeError('AUTH hunt"er2 refused')
    except RuntimeError:
        log.exception('got hunt"er2', argv=[b"AUTH", b'hunt"er2'], both="swordfish-long swordfish")
    text = stream.getvalue()
    assert "er2" not in text
    assert "swordfish" not in text
    assert "-long" not in text
    log.info("abc")
    assert "abc" in stream.getvalue()  # too short to be looked for
