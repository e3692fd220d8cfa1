"""The way back: exact with a perfect network, and the right distribution with the best one for Gaussian rows."""

import pytest
import torch

from histograph.nn import Diffusion, burn_in_rounds, reverse_process, reverse_times

MEAN, VARIANCE = 1.5, 0.25


def normal_of(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda rows: torch.randn(rows.shape, generator=generator, dtype=rows.dtype)


def best(process):
    """Give the optimal denoiser of rows from N(MEAN, VARIANCE), in closed form."""

    def restore(tables, time):
        kept = float(process.kept(torch.tensor([time])))
        gain = VARIANCE * kept**0.5 / (kept * VARIANCE + 1 - kept)
        return [MEAN + gain * (rows - kept**0.5 * MEAN) for rows in tables]

    return restore


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("target", ["x0", "epsilon", "step"])
@pytest.mark.parametrize("schedule", ["sigmoid", "cosine", "jsd"])
def test_a_perfect_network_gives_the_truth(schedule, target, eta):
    process = Diffusion(schedule, 40)
    truth = [torch.randn(5, 3, dtype=torch.float64), torch.randn(2, 1, dtype=torch.float64)]

    def restore(tables, time):
        out = []
        for x0, rows in zip(truth, tables):
            when = torch.full((len(rows),), time)
            kept = process.kept(when).unsqueeze(1)
            eps = (rows - kept.sqrt() * x0) / (1 - kept).sqrt()
            before = process.kept((when - 1).clamp(min=0)).unsqueeze(1)
            step = before.sqrt() * x0 + (1 - before).sqrt() * eps - rows
            prediction = {"x0": x0, "epsilon": eps, "step": step}[target]
            out.append(process.clean(target, prediction, rows, when))
        return out

    times = reverse_times(process, 7, target)
    start = [torch.randn_like(x0) for x0 in truth]
    rows, first = reverse_process(process, restore, start, times, normal_of(0), eta, burn_in=1)
    for found, x0 in zip(rows + first, truth * 2):
        torch.testing.assert_close(found, x0, atol=1e-8, rtol=0)


def test_without_fresh_noise_rows_stay_on_their_line():
    process, truth = Diffusion("cosine", 50), torch.randn(4, 3)
    start, seen = torch.randn(4, 3), {}

    def restore(tables, time):
        seen[time] = tables[0]
        return [truth]

    times = reverse_times(process, 10)
    top = torch.full((4,), 49)
    eps = (start - process.signal[top].unsqueeze(1) * truth) / process.noise[top].unsqueeze(1)
    reverse_process(process, restore, [start], times, normal_of(0))
    for time in times:
        on_line = process.noisy(truth, eps, torch.full((4,), time))
        torch.testing.assert_close(seen[time], on_line, atol=1e-4, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("schedule", ["cosine", "sigmoid", "linear"])
def test_gaussian_rows_get_their_mean_and_variance(schedule, eta):
    process = Diffusion(schedule, 1000)
    start = [normal_of(1)(torch.empty(10_000, 1))]
    times, rounds = reverse_times(process, 300), burn_in_rounds(process)
    rows, first = reverse_process(process, best(process), start, times, normal_of(2), eta, rounds)
    # the mean of 10,000 has a standard error of 0.005, the variance one of 1.4 %
    assert abs(float(rows[0].mean()) - MEAN) < 0.03
    assert abs(float(rows[0].var()) / VARIANCE - 1) < 0.06
    # the estimates at the noisiest level average to the mean as well
    assert abs(float(first[0].mean()) - MEAN) < 0.03


def test_a_schedule_that_stops_short_of_noise_needs_the_rounds():
    process = Diffusion("sigmoid", 100)
    start = [normal_of(1)(torch.empty(10_000, 1))]
    rows, _ = reverse_process(process, best(process), start, reverse_times(process, 100), normal_of(2), 1.0)
    assert abs(float(rows[0].mean()) - MEAN) > 0.1


@pytest.mark.parametrize("name", ["sigmoid", "quad", "const", "cosine"])
def test_rounds_are_the_fewest_that_suffice(name):
    process = Diffusion(name, 100)
    kept, rounds = float(process.signal[-1] ** 2), burn_in_rounds(process, 0.01)
    assert kept ** (rounds + 0.5) <= 0.01
    assert rounds == 0 or kept ** (rounds - 0.5) > 0.01


@pytest.mark.parametrize("target", ["x0", "epsilon", "step"])
@pytest.mark.parametrize("steps", [1, 2, 17, 99])
def test_times_descend_from_the_noisiest(target, steps):
    times = reverse_times(Diffusion("jsd", 101), steps, target)
    assert len(set(times)) == steps and times == sorted(times, reverse=True)
    assert times[0] == (99 if target == "epsilon" else 100)
    assert steps == 1 or times[-1] == (1 if target == "step" else 0)


def test_wrong_arguments_are_named():
    process = Diffusion("cosine", 10)
    with pytest.raises(ValueError, match="steps must lie between 1 and 10"):
        reverse_times(process, 11)
    with pytest.raises(ValueError, match="between 1 and 9"):
        reverse_times(process, 10, "step")
    with pytest.raises(ValueError, match="tolerance"):
        burn_in_rounds(process, 1.0)
    for times in ([], [3, 3], [1, 2]):
        with pytest.raises(ValueError, match="times must descend"):
            reverse_process(process, best(process), [torch.zeros(1, 1)], times, torch.randn_like)
    with pytest.raises(ValueError, match="burn_in"):
        reverse_process(process, best(process), [torch.zeros(1, 1)], [1], torch.randn_like, burn_in=-1)
