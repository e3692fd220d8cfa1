from pathlib import Path

import numpy as np
import pytest
import torch

from histograph.nn import SCHEDULES, Diffusion, antithetic_times, beta_schedule

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "hmgdm" / "layers.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_the_released_ones(golden, name):
    for start, end, steps in zip(golden["beta_start"], golden["beta_end"], golden["T"]):
        beta = beta_schedule(name, int(steps), float(start), float(end))
        wanted = golden[f"{name}_T{steps}_beta64"]
        np.testing.assert_allclose(beta[::50] if steps == 1000 else beta, wanted, rtol=1e-9)
    kept = np.cumprod(1 - beta_schedule(name, 1000))
    np.testing.assert_allclose(kept[::111], golden[f"{name}_T1000_alphabar32"], rtol=2e-3, atol=1e-7)


def test_default_schedule():
    beta = beta_schedule("sigmoid", 1000)
    kept = np.cumprod(1 - beta)
    assert (np.diff(beta) > 0).all() and (np.diff(kept) < 0).all()
    assert kept.min() > 0 and kept.max() < 1
    assert abs(kept[999] - 0.36755) < 1e-4


@pytest.mark.parametrize("steps", [50, 250])
def test_total_noise_hardly_depends_on_the_number_of_steps(steps):
    assert abs(np.prod(1 - beta_schedule("sigmoid", steps)) - 0.3676) < 0.02


def test_moments_of_the_noisy_values():
    torch.manual_seed(0)
    process = Diffusion()
    time = torch.full((100_000,), 700)
    x = process.noisy(torch.full((100_000, 1), 2.0), torch.randn(100_000, 1), time)
    kept = float(process.signal[700] ** 2)
    assert abs(float(x.var()) / (1 - kept) - 1) < 0.02
    assert abs(float(x.mean()) / (2 * kept**0.5) - 1) < 0.01


def test_rows_without_noise_are_only_scaled():
    process, x0 = Diffusion(), torch.randn(5, 3)
    time = torch.randint(1000, (5,))
    assert torch.equal(process.noisy(x0, torch.zeros(5, 3), time), process.signal[time].unsqueeze(1) * x0)


def test_noising_and_step_target_equal_the_released_ones(golden):
    x0, rows = torch.tensor(golden["q_x"]), golden["q_node_target_mask"]
    eps = torch.tensor(golden["q_direct_target_x"])
    if eps.shape[0] != x0.shape[0]:
        eps = torch.zeros_like(x0).index_put((torch.tensor(rows),), eps)
    time = torch.full((x0.shape[0],), int(golden["q_time_step"][0]))
    process = Diffusion()
    x_t = process.noisy(x0, eps, time)
    torch.testing.assert_close(x_t[rows], torch.tensor(golden["q_direct_x_t"])[rows], atol=1e-5, rtol=1e-4)
    step = process.target("step", x0, eps, time)
    torch.testing.assert_close(
        step[rows], torch.tensor(golden["q_step_target_x"])[rows], atol=1e-6, rtol=1e-3
    )


def test_step_target_is_the_deterministic_step_and_zero_at_the_start():
    process = Diffusion()
    x0, eps = torch.randn(4, 3), torch.randn(4, 3)
    time = torch.tensor([0, 1, 500, 999])
    step = process.target("step", x0, eps, time)
    assert torch.equal(step[0], torch.zeros(3))
    earlier = process.noisy(x0, eps, time - 1 + (time == 0))
    torch.testing.assert_close(process.noisy(x0, eps, time) + step, earlier)
    assert torch.equal(process.target("x0", x0, eps, time), x0)
    assert torch.equal(process.target("epsilon", x0, eps, time), eps)


@pytest.mark.parametrize("graphs", [1, 2, 5, 8])
def test_times_come_in_antithetic_pairs(graphs):
    half = graphs // 2 + 1
    for seed in range(20):
        torch.manual_seed(seed)
        time = antithetic_times(graphs, 10)
        assert time.shape == (graphs,) and time.min() >= 0 and time.max() <= 9
        assert (time[: graphs - half] + time[half:] == 9).all()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(("cubic", 10), "schedule"), (("linear", 1), "timesteps"), (("linear", 10, 0.5, 0.1), "beta_start")],
)
def test_wrong_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        beta_schedule(*arguments)


def test_unknown_target():
    with pytest.raises(ValueError, match="x0, step, epsilon"):
        Diffusion().target("v", torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([0]))
