"""The figure of what a run measured while it trained."""

from pathlib import Path

from PIL import Image

from tests.commands import run_command, succeed
from training.gan.curves import CURVES, curves_figure


def test_curves_are_those_of_the_log():
    def row(kimg: float, where: str, level: float) -> dict[str, float]:
        metrics = {f"{where}_{key}": level for key in CURVES}
        if where == "training":  # nothing tells whether they are copied
            del metrics["training_nearest_training_clip_i_sim"]
        real = {"real_nearest_fd_clip": 0.1, "real_same_fd_clip": 0.05}
        return {"samples": kimg * 1000, **real, **metrics}

    logs = {
        "a": [row(1, "held_out", 0.9), {"samples": 2000}, row(3, "held_out", 0.4)],
        "b": [row(2, "training", 0.7)],
    }
    figure = curves_figure(logs)
    frechet = figure.axes[0]
    curves = {line.get_label(): line for line in frechet.lines}
    assert curves["a"].get_xydata().tolist() == [[1, 0.9], [3, 0.4]]
    assert curves["b"].get_xydata().tolist() == [[2, 0.7]]
    assert len(frechet.lines) == 4  # and the same and the nearest real images
    assert len(figure.axes[1].lines) == 2
    copies = figure.axes[list(CURVES).index("nearest_training_clip_i_sim")]
    assert [len(line.get_xdata()) for line in copies.lines] == [2, 0]


def test_a_run_is_plotted_and_what_is_none_is_refused(gan_run: Path, tmp_path: Path):
    out = tmp_path / "curves.png"
    succeed("evaluate", "curves", gan_run, "--out", out)
    with Image.open(out) as image:
        assert image.width > 4 * image.height / 2
    outcome = run_command("evaluate", "curves", gan_run, tmp_path, "--out", out)
    assert outcome.code == 2
    assert "has measured nothing" in outcome.err
