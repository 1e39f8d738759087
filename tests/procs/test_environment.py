"""What a child may see."""

from clinvk.procs.environment import FIXED, child_environment


def test_only_what_is_allowed_passes() -> None:
    source = {
        "PATH": "/bin",
        "HOME": "/h",
        "LC_ALL": "C",
        "XDG_CONFIG_HOME": "/x",
        "https_proxy": "http://p",
        "VENDOR_KEY": "v",
        "VENDOR_KEY_2": "no",
        "OTHER_ONE": "o",
        "OTHER": "no",
        "SECRET": "no",
        "NODE_OPTIONS": "no",
        "PATHS": "no",
        "CLAUDECODE": "no",
    }
    assert child_environment(("VENDOR_KEY", "OTHER_*"), {}, source=source) == {
        "PATH": "/bin",
        "HOME": "/h",
        "LC_ALL": "C",
        "XDG_CONFIG_HOME": "/x",
        "https_proxy": "http://p",
        "VENDOR_KEY": "v",
        "OTHER_ONE": "o",
        **FIXED,
    }


def test_clinvks_own_variables_never_pass() -> None:
    source = {"CLINVK_API_KEY": "secret"}
    assert child_environment(("CLINVK_*", "CLINVK_API_KEY", "*"), {}, source=source) == FIXED


def test_extra_variables_win() -> None:
    source = {"PATH": "/bin", "TERM": "xterm"}
    extra = {"PATH": "/own", "NO_COLOR": "", "CLINVK_X": "1"}
    assert child_environment((), extra, source=source) == extra


def test_the_servers_environment_is_the_source() -> None:
    assert "PATH" in child_environment((), {})
