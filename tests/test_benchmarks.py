"""The benchmarks run, and compare like with like. What they measure stands in benchmarks/results."""

import pytest

from benchmarks import cpu, gpu


def test_gpu_benchmark_runs_small_on_any_device(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu", "--small"])
    assert gpu.main() == 0
    assert "one guided step" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["answer", "image", "edit"])
def test_naive_variant_gives_the_same_output(task, tiny_checkpoint):
    ours, naive = (cpu.work(variant, task, str(tiny_checkpoint)) for variant in ("ours", "naive"))
    assert cpu.close(ours["output"], naive["output"])
