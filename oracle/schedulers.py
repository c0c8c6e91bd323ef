"""Flow-matching schedulers: their timesteps, sigmas, and trajectories under a fixed velocity field.

`velocity(x, t)` is a smooth function of the sample and the timestep as the scheduler hands it
out, so a wrong timestep (rounded where it should be truncated) moves the trajectory.
"""

import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from common import fresh, generator, randn, save_case

FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, solver_order=2)
SCHEDULERS = (
    {f"euler.shift{s}": FlowMatchEulerDiscreteScheduler(shift=float(s)) for s in (1, 3, 5)}
    | {f"unipc.shift{s}": UniPCMultistepScheduler(**FLOW, flow_shift=float(s)) for s in (1, 3, 5)}
    | {f"dpm.shift{s}": DPMSolverMultistepScheduler(**FLOW, flow_shift=float(s)) for s in (1, 3, 5)}
)
STEPS = (1, 2, 4, 8, 20, 50)


def velocity(x, t):
    t = t.double()
    return (0.3 * x.double() * torch.cos(t / 500) + 0.1 * torch.sin(t / 100)).float()


def trajectory(scheduler, steps, x):
    """The samples after every step, `(steps, *x.shape)`, as a pipeline would run them."""
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    samples = []
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t), t, x, return_dict=False)[0]
        samples.append(x)
    return torch.stack(samples)


def main():
    folder = fresh("schedulers")
    start = randn(generator(700), 2, 3, 4)
    tensors, configs = dict(start=start), {}
    for name, scheduler in SCHEDULERS.items():
        configs[name] = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
        for steps in STEPS:
            key = f"{name}.steps{steps}"
            tensors[f"{key}.trajectory"] = trajectory(scheduler, steps, start)
            tensors[f"{key}.timesteps"] = scheduler.timesteps
            tensors[f"{key}.sigmas"] = scheduler.sigmas
    save_case(folder, tensors, configs)


if __name__ == "__main__":
    main()
