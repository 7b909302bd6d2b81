"""Which faults are planted."""

from __future__ import annotations

from pathlib import Path

from tests.mutation.mutants import sample


def test_a_change_of_the_code_leaves_the_rest_of_the_sample(tmp_path: Path) -> None:
    module = tmp_path / "hfs_providers/keys/one.py"
    module.parent.mkdir(parents=True)

    def chosen(functions: range) -> set[tuple[str, str]]:
        module.write_text("".join(f"def f{number}():\n    return {number} < 5\n\n" for number in functions))
        return {(mutant.before, mutant.after) for mutant in sample(tmp_path, ["keys"], 60, seed=1)}

    before, after = chosen(range(100, 200)), chosen(range(99, 200))
    assert len(before) == 60
    assert len(before & after) >= 57
