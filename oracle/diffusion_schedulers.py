"""Schedulers of diffusion: their timesteps, and trajectories under a fixed stand-in for a denoiser.

A sample is recorded as the denoiser is shown it (after `scale_model_input`), so that schedulers which
work on other scales can be held against one another; the last one is the result. Step counts do not
divide 1000, where rounding and "the previous timestep" are told apart.
"""

import diffusers
import torch
from diffusers.schedulers import scheduling_euler_ancestral_discrete, scheduling_lcm

from common import fresh, generator, randn, save_case

SHAPE = (2, 4)
LONGEST = 30
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
# As Stable Diffusion 1.5 publishes it.
PNDM_15 = dict(
    SD, num_train_timesteps=1000, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None, clip_sample=False
)
TRAINED = [round(0.0005 + 0.00002 * i * (1 + 0.3 * (i % 3)), 7) for i in range(200)]
ZERO_SNR = dict(SD, rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
SDE = dict(SD, algorithm_type="sde-dpmsolver++")

# name: (class, fields, step counts)
CASES = {}


def cases(name, of, steps, **variants):
    for variant, fields in variants.items():
        CASES[f"{name}.{variant}"] = (of, fields, steps)


cases(
    "ddim", "DDIMScheduler", (7, 30),
    default={},
    animate=dict(SD, beta_schedule="linear", timestep_spacing="linspace", steps_offset=1, clip_sample=False),
    offset=dict(SD, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    trailing=dict(SD, clip_sample=False, timestep_spacing="trailing", prediction_type="v_prediction"),
    zero_snr=dict(ZERO_SNR, clip_sample=False),
    sample=dict(SD, prediction_type="sample", clip_sample=True, clip_sample_range=0.4),
    clipped=dict(SD, clip_sample=True, clip_sample_range=0.7, prediction_type="v_prediction"),
    cosine=dict(beta_schedule="squaredcos_cap_v2", clip_sample=True, clip_sample_range=2.0),
    trained=dict(trained_betas=TRAINED, num_train_timesteps=200, clip_sample=False, timestep_spacing="linspace"),
)
cases(
    "lcm", "LCMScheduler", (1, 4, 7),
    default={},
    animate=dict(SD, beta_schedule="linear", timestep_spacing="linspace", steps_offset=1, set_alpha_to_one=False),
    clipped=dict(clip_sample=True, clip_sample_range=0.6, prediction_type="v_prediction", timestep_scaling=0.01),
    sample=dict(prediction_type="sample", original_inference_steps=30, rescale_betas_zero_snr=True),
)
cases(
    "euler", "EulerDiscreteScheduler", (7, 25),
    default={},
    leading=dict(SD, timestep_spacing="leading", steps_offset=1),
    trailing=dict(SD, timestep_spacing="trailing", prediction_type="v_prediction"),
    karras=dict(SD, use_karras_sigmas=True),
    karras_bounds=dict(SD, use_karras_sigmas=True, sigma_min=0.1, sigma_max=10.0, timestep_spacing="leading"),
    log_linear=dict(SD, interpolation_type="log_linear"),
    sigma_min=dict(SD, final_sigmas_type="sigma_min", prediction_type="sample"),
    zero_snr=ZERO_SNR,
)
cases(
    "euler_a", "EulerAncestralDiscreteScheduler", (7, 25),
    default={},
    leading=dict(SD, timestep_spacing="leading", steps_offset=1),
    trailing=dict(SD, timestep_spacing="trailing", prediction_type="v_prediction"),
    zero_snr=ZERO_SNR,
)
cases(
    "dpm", "DPMSolverMultistepScheduler", (7, 25),
    default={},
    first=dict(SD, solver_order=1, timestep_spacing="leading", steps_offset=1),
    heun=dict(SD, solver_type="heun", prediction_type="v_prediction", timestep_spacing="trailing"),
    third=dict(SD, solver_order=3),
    third_to_the_end=dict(SD, solver_order=3, lower_order_final=False, final_sigmas_type="sigma_min"),
    second_to_the_end=dict(SD, lower_order_final=False, final_sigmas_type="sigma_min"),
    euler_at_final=dict(SD, euler_at_final=True, lower_order_final=False, final_sigmas_type="sigma_min"),
    karras=dict(SD, use_karras_sigmas=True, prediction_type="sample"),
    karras_sigma_min=dict(SD, use_karras_sigmas=True, final_sigmas_type="sigma_min"),
    cosine=dict(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1),
    cosine_karras=dict(beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True, prediction_type="v_prediction"),
    zero_snr=ZERO_SNR,
)
cases(
    "dpm_sde", "DPMSolverMultistepScheduler", (7, 25),
    midpoint=SDE,
    heun=dict(SDE, solver_type="heun", prediction_type="v_prediction", timestep_spacing="trailing"),
    third=dict(SDE, solver_order=3),
    karras=dict(SDE, use_karras_sigmas=True, euler_at_final=True),
    sigma_min=dict(SDE, final_sigmas_type="sigma_min"),
)
cases(
    "pndm", "PNDMScheduler", (7, 13),
    default={},
    stable_diffusion=PNDM_15,
    linspace=dict(SD, skip_prk_steps=True, timestep_spacing="linspace", prediction_type="v_prediction"),
    trailing=dict(SD, skip_prk_steps=True, timestep_spacing="trailing", set_alpha_to_one=True),
    runge_kutta=dict(SD, timestep_spacing="linspace", prediction_type="v_prediction"),
    runge_kutta_trailing=dict(SD, timestep_spacing="trailing"),
)
CASES["pndm.short"] = ("PNDMScheduler", PNDM_15, (1, 2, 3))
# Another class with what a folder says of its own.
OTHERS = {
    "ddim": "DDIMScheduler", "lcm": "LCMScheduler", "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler", "dpm++2m": "DPMSolverMultistepScheduler", "pndm": "PNDMScheduler",
}
FOLDERS = {
    "pndm": ("PNDMScheduler", PNDM_15),
    "ddim": ("DDIMScheduler", dict(SD, timestep_spacing="linspace", prediction_type="v_prediction")),
    "dpm": ("DPMSolverMultistepScheduler", dict(SD, use_karras_sigmas=True, final_sigmas_type="sigma_min", steps_offset=1)),
}


def stand_in(x, t):
    t = float(t)
    return (0.6 * x.double() * torch.cos(torch.tensor(t / 700.0)).double() + 0.3 * torch.sin(torch.tensor(t / 100.0)).double()).float()


def trajectory(scheduler, steps, x, noise):
    """What the denoiser is shown at every step, and the result, `(steps + 1, *x.shape)`."""
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        # Whole timesteps of a fine schedule may be the same, and the first of them is meant.
        scheduler.set_begin_index(0)
    x = x * scheduler.init_noise_sigma
    shown = []
    for i, t in enumerate(scheduler.timesteps):
        def draw(*_, **__):
            return noise[i]

        for module in (scheduling_lcm, scheduling_euler_ancestral_discrete):
            module.randn_tensor = draw
        more = {}
        if getattr(scheduler.config, "algorithm_type", "").startswith("sde"):
            more = dict(variance_noise=noise[i])
        model_input = scheduler.scale_model_input(x, t)
        shown.append(model_input)
        x = scheduler.step(stand_in(model_input, t), t, x, return_dict=False, **more)[0]
    return torch.stack([*shown, x])


def config(scheduler):
    """All fields of a class, as they are saved; infinity is not JSON."""
    whole = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    return {k: None if v == -float("inf") else v for k, v in whole.items()}


def main():
    folder = fresh("diffusion_schedulers")
    start, noise = randn(generator(800), *SHAPE), randn(generator(801), LONGEST, *SHAPE)
    tensors, listed = dict(start=start, step_noise=noise), {}

    def record(key, scheduler, steps):
        tensors[f"{key}.trajectory"] = trajectory(scheduler, steps, start, noise)
        tensors[f"{key}.timesteps"] = scheduler.timesteps

    for name, (of, fields, counts) in CASES.items():
        for steps in counts:
            record(f"{name}.steps{steps}", getattr(diffusers, of).from_config(dict(fields)), steps)
        listed[name] = {"_class_name": of, **fields}
        if fields.get("trained_betas"):
            # Enough to be made again: 200 numbers would fill the file.
            listed[name]["trained_betas"] = "TRAINED"
    betas = dict(
        linear={}, scaled_linear=SD, squaredcos_cap_v2=dict(beta_schedule="squaredcos_cap_v2"), zero_snr=dict(SD, rescale_betas_zero_snr=True)
    )
    for name, fields in betas.items():
        tensors[f"alphas_cumprod.{name}"] = diffusers.DDIMScheduler(**fields).alphas_cumprod
    whole = {of: config(getattr(diffusers, of)()) for of in OTHERS.values()}
    folders = {}
    for base, (of, fields) in FOLDERS.items():
        folders[base] = {"_class_name": of, **fields}
        own = getattr(diffusers, of).from_config(dict(fields)).config
        for name, other in OTHERS.items():
            record(f"folder.{base}.{name}", getattr(diffusers, other).from_config(own), 13)
    tensors["trained_betas"] = torch.tensor(TRAINED)
    save_case(folder, tensors, dict(cases=listed, defaults=whole, folders=folders))


if __name__ == "__main__":
    main()
