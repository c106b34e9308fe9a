"""Which files are flows: each once, whatever links lead to it, and no link that leads nowhere is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflow.cli import main
from dataflow.errors import UsageError
from dataflow.flows import find_flows, find_workspace

FLOW = "flow: f\ntrigger: {event: a}\nsteps: [{end: x}]\n"


def flow(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FLOW)
    return path


def test_a_folder_as_kubernetes_mounts_a_config_map_has_each_flow_once(tmp_path: Path) -> None:
    flow(tmp_path / "..2026_11_28_10_00_00.123" / "cart.yaml")
    (tmp_path / "..data").symlink_to("..2026_11_28_10_00_00.123")
    (tmp_path / "cart.yaml").symlink_to("..data/cart.yaml")
    assert find_flows([tmp_path]) == [tmp_path / "cart.yaml"]


def test_names_that_begin_with_a_dot_are_left_out_unless_they_are_given(tmp_path: Path) -> None:
    shown, hidden = flow(tmp_path / "a" / "shown.yaml"), flow(tmp_path / ".git" / "hidden.yaml")
    flow(tmp_path / "a" / ".draft.yaml")
    assert find_flows([tmp_path]) == [shown]
    assert find_flows([hidden, tmp_path]) == [hidden, shown]


def test_a_file_that_is_found_twice_counts_once_by_the_name_found_first(tmp_path: Path) -> None:
    one = flow(tmp_path / "flows" / "one.yaml")
    (tmp_path / "flows" / "two.yaml").symlink_to(one)
    assert find_flows([tmp_path / "flows", one, tmp_path / "flows" / "two.yaml"]) == [one]


def test_links_to_folders_are_followed_and_one_that_leads_back_ends_there(tmp_path: Path) -> None:
    flow(tmp_path / "shared" / "one.yaml")
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "team").symlink_to(tmp_path / "shared")
    (tmp_path / "shared" / "again").symlink_to(tmp_path / "flows")
    assert find_flows([tmp_path / "flows"]) == [tmp_path / "flows" / "team" / "one.yaml"]


@pytest.mark.parametrize("given", ["folder", "link"])
def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path, given: str) -> None:
    flow(tmp_path / "there.yaml")
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nothing.yaml")
    with pytest.raises(UsageError, match=r"gone\.yaml: the link leads nowhere"):
        find_flows([tmp_path if given == "folder" else tmp_path / "gone.yaml"])


def test_a_link_that_is_no_flow_may_lead_nowhere(tmp_path: Path) -> None:
    one = flow(tmp_path / "one.yaml")
    (tmp_path / "notes.txt").symlink_to(tmp_path / "nothing")
    assert find_flows([tmp_path]) == [one]


# ---- the workspace file --------------------------------------------------------------------------------------------


def folders(root: Path, *names: str) -> Path:
    """Make folders below each other and return the last."""
    for name in names:
        root /= name
        root.mkdir()
    return root


def test_the_nearest_workspace_file_above_the_flows_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flows = folders(tmp_path, "shop", "marketing", "flows")
    (tmp_path / "shop" / "nudge.yaml").touch()
    assert find_workspace([flows], None) == tmp_path / "shop" / "nudge.yaml"
    (tmp_path / "shop" / "marketing" / "nudge.yaml").touch()
    assert find_workspace([flows], None) == tmp_path / "shop" / "marketing" / "nudge.yaml"
    assert find_workspace([flows / "cart.yaml"], None) == tmp_path / "shop" / "marketing" / "nudge.yaml"
    monkeypatch.chdir(tmp_path / "shop" / "marketing")
    assert find_workspace([Path("flows")], None) == Path("nudge.yaml")
    (flows / "nudge.yaml").touch()
    assert find_workspace([Path("flows")], None) == Path("flows/nudge.yaml")


def test_the_search_for_a_workspace_file_ends_at_the_repository(tmp_path: Path) -> None:
    flows = folders(tmp_path, "shop", "flows")
    (tmp_path / "nudge.yaml").touch()
    assert find_workspace([flows], None) == tmp_path / "nudge.yaml"
    (tmp_path / "shop" / ".git").mkdir()
    assert find_workspace([flows], None) is None
    (tmp_path / "shop" / "nudge.yaml").touch()
    assert find_workspace([flows], None) == tmp_path / "shop" / "nudge.yaml"


def test_the_search_for_a_workspace_file_goes_four_folders_up(tmp_path: Path) -> None:
    root = folders(tmp_path, "root")
    fourth = folders(root, "a", "b", "c", "d")
    (root / "nudge.yaml").touch()
    assert find_workspace([fourth], None) == root / "nudge.yaml"
    assert find_workspace([folders(fourth, "e")], None) is None


def test_without_flows_the_search_for_a_workspace_file_begins_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders(tmp_path, "shop", "flows"))
    (tmp_path / "shop" / "nudge.yaml").touch()
    assert find_workspace([], None) == tmp_path / "shop" / "nudge.yaml"
    Path("nudge.yaml").touch()
    assert find_workspace([], None) == Path("nudge.yaml")


def test_a_workspace_file_beside_a_later_argument_is_the_same_or_an_error(tmp_path: Path) -> None:
    first, second = folders(tmp_path, "shop", "flows"), folders(tmp_path, "other")
    (second / "nudge.yaml").write_text("run: {}")
    with pytest.raises(UsageError, match="is beside a later argument: name it with --config, or give that"):
        find_workspace([first, second], None)
    above = tmp_path / "shop" / "nudge.yaml"
    above.write_text("run: {}")
    assert find_workspace([first, second], None) == above
    above.write_text("kafka: {}")
    with pytest.raises(UsageError, match="different workspace files"):
        find_workspace([first, second], None)
    assert find_workspace([first, second], second / "nudge.yaml") == second / "nudge.yaml"


def test_check_says_which_workspace_file_it_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = folders(tmp_path, "flows") / "f.yaml"
    flow.write_text("flow: f\ntrigger: {event: a}\nsteps: [{send: line, template: t}]\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    assert main(["check", "flows"]) == 2
    assert capsys.readouterr().err == "", "there is none"
    Path("nudge.yaml").write_text("channels: {line: {address: null}}")
    assert main(["check", "flows", "--json"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "workspace file: nudge.yaml\n")
