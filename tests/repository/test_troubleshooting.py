"""docs/troubleshooting.md has each error and warning that users see, and none that is gone."""

import re

import messages
import pytest
from conftest import ROOT
from messages import ANYTHING, REASON

PAGE = ROOT / "docs" / "troubleshooting.md"

# What no user sees by itself.
KINDS_NOT_SEEN = {
    "AttributeError",  # Python's own words, for names that an object has not
    "AuthenticationError",  # a stranger's connection is closed without a word
    "IncompatibleError",  # the reason in "these patches, which do not fit this release"
    "ProtocolError",  # a tunnel connects anew
    "_MisfitError",  # another forkserver is started, without a word
    "_RefusedError",  # the reason in "wandb's message … is refused"
}
NOT_SEEN = {
    # Parts that are put together with others, whose first words are on the page.
    f"importing {ANYTHING} {ANYTHING}",
    f"{ANYTHING}, where a new process can't import it.",
    f"{ANYTHING}. Define functions and classes",
    f"{ANYTHING} this worker to run {ANYTHING} may be lost",
    f"{ANYTHING}: choose another port",
    "this Python has not run the",
    "there are no",
    # Another reason in "these patches, which do not fit this release".
    f"{ANYTHING} is not there: no such module",
    # The command's name before an error; and Ctrl-C.
    f"wandb-ddp-patch: {ANYTHING}",
    "wandb-ddp-patch: interrupted",
    # Caught where it is raised: nothing can be told then, and nothing depends on it.
    f"{ANYTHING} is not ours",
    "the kernel does not tell of Unix sockets",
    # The reason in "its owner can't reach W&B's service".
    f"WANDB_SERVICE={ANYTHING} has an unknown format",
}
# What users see before the parts that are found.
BEGINNINGS = (f"importing {ANYTHING} ", f"wandb_ddp_patch {ANYTHING} is ", "wandb_ddp_patch: ")


def entries(text):
    """Return the first words that the page's tables of errors and warnings list."""
    section = text.partition("\n## Errors and warnings\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| `([^`]+)` \|", section, re.M)
    assert len(cells) == len(re.findall(r"^\| `", section, re.M)) > 20
    return [cell.rstrip(f" {ANYTHING}") for cell in cells]


def begins(entry, text):
    """Return True if an entry of the page begins as a message's text does."""
    for beginning in ("", *BEGINNINGS):
        for whole in (beginning + text, text[len(beginning) * text.startswith(beginning) :]):
            # Longer than the text is an entry that names what comes after a part.
            if whole.startswith(entry) or entry.startswith(whole):
                return True
    return False


def is_seen(message):
    hidden = any(message.text.startswith(text) for text in NOT_SEEN)
    return message.kind not in KINDS_NOT_SEEN and not hidden


def missing(found, listed):
    """Return the messages that no entry of the page is about."""
    seen = [message for message in found if is_seen(message)]
    return [each for each in seen if not any(begins(entry, each.text) for entry in listed)]


def gone(found, listed):
    """Return the entries of the page that no message begins with."""
    texts = [message.text for message in found]
    return [entry for entry in listed if not any(begins(entry, text) for text in texts)]


@pytest.fixture(scope="module")
def found():
    return messages.scan()


@pytest.fixture(scope="module")
def listed():
    return entries(PAGE.read_text("utf-8"))


def test_each_message_is_on_the_page(found, listed):
    assert not missing(found, listed)


def test_the_page_has_none_that_is_gone(found, listed):
    assert not gone(found, listed)


def test_each_is_on_the_page_once(listed):
    assert sorted(listed) == sorted(set(listed))


def test_each_exception_is_of_use(found):
    for text in NOT_SEEN:
        assert any(message.text.startswith(text) for message in found), text
    assert {message.kind for message in found} >= KINDS_NOT_SEEN


def test_a_line_that_is_removed_is_found(found, listed):
    for entry in listed:
        assert missing(found, [other for other in listed if other != entry]), entry


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        ("warnings.warn(f'a new {kind} of warning')", "warn", f"a new {ANYTHING} of warning"),
        ("raise OSError(5, 'port %d is in use' % port)", "OSError", f"port {ANYTHING} is in use"),
        ("print('all is lost', file=sys.stderr)", "print", "all is lost"),
        ("why = 'it is gone' if gone else GONE", REASON, "it is gone"),
        ("why = 'it is gone' if gone else GONE", REASON, "it went away"),
        ("def a_problem():\n    return 'there is one'", REASON, "there is one"),
    ],
)
def test_a_message_is_found_in_the_source(tmp_path, line, kind, text):
    (tmp_path / "new.py").write_text(f"GONE = 'it went away'\n{line}\n", "utf-8")
    (message,) = [each for each in messages.scan(tmp_path) if each.text == text]
    assert message.kind == kind and message.place.startswith("new.py:")
    assert missing([message], ["another"]) == [message]
