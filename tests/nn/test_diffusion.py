from pathlib import Path

import numpy as np
import pytest
import torch

from histograph.nn import SCHEDULES, Diffusion, antithetic_times, beta_schedule

FOLDER = Path(__file__).parents[1] / "data" / "golden" / "hmgdm"
GOLDEN = FOLDER / "layers.npz"


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


def test_steps_back_equal_the_closed_forms():
    with np.load(FOLDER / "analytic_ddpm.npz") as file:
        golden = dict(file)
    for steps, start, end in ((10, 1e-3, 0.2), (100, 1e-4, 0.02), (1000, 1e-7, 0.002)):
        process = Diffusion("sigmoid", steps, start, end)
        times = torch.arange(steps)
        wanted = {name: golden[f"T{steps}_{name}"] for name in ("post_var", "post_coef_x0", "post_coef_xt")}
        one, none = torch.ones(steps, 1, dtype=torch.float64), torch.zeros(steps, 1, dtype=torch.float64)
        from_x0, variance = process.posterior(one, none, times)
        from_noisy, _ = process.posterior(none, one, times)
        found = (variance, from_x0, from_noisy)
        for coefficient, name in zip(found, ("post_var", "post_coef_x0", "post_coef_xt")):
            np.testing.assert_allclose(coefficient[:, 0], wanted[name], atol=1e-12)
        for t in (0, 1, steps // 2, steps - 1):
            rows = {
                name: torch.tensor(golden[f"T{steps}_t{t}_{name}"])
                for name in ("x0", "eps", "xt", "ddpm_mean", "ddim_xtm1", "step_target")
            }
            time = torch.full((5,), t)
            mean, _ = process.posterior(rows["x0"], rows["xt"], time)
            torch.testing.assert_close(mean, rows["ddpm_mean"], atol=1e-9, rtol=0)
            step = process.ddim_step(rows["x0"], rows["xt"], time)
            torch.testing.assert_close(step, rows["ddim_xtm1"], atol=1e-9, rtol=0)
            torch.testing.assert_close(step - rows["xt"], rows["step_target"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", ["x0", "epsilon", "step"])
def test_clean_rows_come_back_from_every_target(name, kind):
    torch.manual_seed(0)
    process = Diffusion(name, 200).double()
    time = torch.tensor([1, 50, 120, 198])
    x0, eps = torch.randn(2, 4, 3, dtype=torch.float64)
    noisy = process.noisy(x0, eps, time)
    clean = process.clean(kind, process.target(kind, x0, eps, time), noisy, time)
    # the buffers of `noisy` are single precision, and a late step tells little of the clean rows
    torch.testing.assert_close(clean, x0, atol=2e-3, rtol=0)


def test_a_step_at_time_zero_takes_the_noise_to_be_nothing():
    process, noisy = Diffusion(), torch.randn(2, 3)
    clean = process.clean("step", torch.zeros(2, 3), noisy, torch.tensor([0, 0]))
    torch.testing.assert_close(clean, noisy / process.signal[0])


@pytest.mark.parametrize(("time", "earlier"), [(9, 8), (9, 3), (5, -1), (0, -1)])
def test_full_fresh_noise_is_the_posterior(time, earlier):
    torch.manual_seed(0)
    process = Diffusion("linear", 10)
    x0, noisy, eps = torch.randn(3, 4, 2)
    late, early = torch.full((4,), time), torch.full((4,), earlier)
    ddpm = process.ddpm_step(x0, noisy, late, eps, early)
    torch.testing.assert_close(process.ddim_step(x0, noisy, late, early, 1.0, eps), ddpm)
    if earlier == -1:
        assert torch.equal(ddpm, x0) and torch.equal(process.ddim_step(x0, noisy, late, early), x0)


def test_posterior_is_bayes_rule():
    """Against the product of the two Gaussians that make it, q(x_s | x_0) and q(x_t | x_s)."""
    process, t, s = Diffusion("cosine", 50), torch.tensor([40]), torch.tensor([17])
    x0, noisy = torch.full((1, 1), 0.7, dtype=torch.float64), torch.full((1, 1), -1.3, dtype=torch.float64)
    mean, variance = process.posterior(x0, noisy, t, s)
    kept_t, kept_s = process.kept(t), process.kept(s)
    grid = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    normal = torch.distributions.Normal
    log = normal(kept_s.sqrt() * 0.7, (1 - kept_s).sqrt()).log_prob(grid)
    log += normal(grid * (kept_t / kept_s).sqrt(), (1 - kept_t / kept_s).sqrt()).log_prob(noisy[0])
    weight = log.softmax(0)
    torch.testing.assert_close(mean[0, 0], (weight * grid).sum(), atol=1e-6, rtol=0)
    torch.testing.assert_close(variance[0, 0], (weight * (grid - mean) ** 2).sum(), atol=1e-6, rtol=0)


def test_each_row_has_its_own_times():
    process, time, earlier = Diffusion(), torch.tensor([900, 5, 300]), torch.tensor([100, -1, 299])
    x0, noisy = torch.randn(2, 3, 2)
    rows = process.ddim_step(x0, noisy, time, earlier)
    for i in range(3):
        alone = process.ddim_step(x0[i : i + 1], noisy[i : i + 1], time[i : i + 1], earlier[i : i + 1])
        torch.testing.assert_close(rows[i : i + 1], alone)


def test_wrong_steps_back_are_named():
    process, x, t = Diffusion("jsd", 10), torch.zeros(1, 1), torch.tensor([9])
    with pytest.raises(ValueError, match="no signal is left at time 9"):
        process.clean("epsilon", x, x, t)
    with pytest.raises(ValueError, match="x0, step, epsilon"):
        process.clean("v", x, x, t)
    with pytest.raises(ValueError, match="earlier must be below time"):
        process.posterior(x, x, t, t)
    with pytest.raises(ValueError, match=r"-1 \.\. timesteps - 1 = 9, found 10 to 10"):
        process.posterior(x, x, t + 1)
    with pytest.raises(ValueError, match="eta must lie"):
        process.ddim_step(x, x, t, eta=2.0)
    with pytest.raises(ValueError, match="eps: standard normal"):
        process.ddim_step(x, x, t, eta=0.5)
