"""Which files are flows: each once, whatever links lead to it, and no link that leads nowhere is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflow.errors import UsageError
from dataflow.flows import find_flows

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
