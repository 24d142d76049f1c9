"""Wrong answers to the exercises of chapter 06, each with a part of its hint."""
import torch
import torch.nn.functional as F

# --- 06.1


def columns(values):
    return values[:, None, None, None]


def add_noise(z, t, eps, alpha_bar):
    return columns(alpha_bar[t] ** 0.5) * z + columns((1 - alpha_bar[t]) ** 0.5) * eps


def forgets_the_scale(unet, latent, scale, context, t, eps, alpha_bar):
    return F.mse_loss(unet(add_noise(latent, t, eps, alpha_bar), t, context), eps)


def divides_by_the_scale(unet, latent, scale, context, t, eps, alpha_bar):
    return F.mse_loss(unet(add_noise(latent / scale, t, eps, alpha_bar), t, context), eps)


def forgets_the_roots(unet, latent, scale, context, t, eps, alpha_bar):
    z_t = columns(alpha_bar[t]) * latent * scale + columns(1 - alpha_bar[t]) * eps
    return F.mse_loss(unet(z_t, t, context), eps)


def swaps_signal_and_noise(unet, latent, scale, context, t, eps, alpha_bar):
    z_t = columns((1 - alpha_bar[t]).sqrt()) * latent * scale + columns(alpha_bar[t].sqrt()) * eps
    return F.mse_loss(unet(z_t, t, context), eps)


def adds_up(unet, latent, scale, context, t, eps, alpha_bar):
    return F.mse_loss(unet(add_noise(scale * latent, t, eps, alpha_bar), t, context), eps, reduction="sum")


def adds_up_the_batch(unet, latent, scale, context, t, eps, alpha_bar):
    error = unet(add_noise(scale * latent, t, eps, alpha_bar), t, context) - eps
    return error.pow(2).flatten(1).mean(1).sum()


def wants_the_latent(unet, latent, scale, context, t, eps, alpha_bar):
    z = scale * latent
    return F.mse_loss(unet(add_noise(z, t, eps, alpha_bar), t, context), z)


def wants_its_input(unet, latent, scale, context, t, eps, alpha_bar):
    z_t = add_noise(scale * latent, t, eps, alpha_bar)
    return F.mse_loss(unet(z_t, t, context), z_t)


def takes_l1(unet, latent, scale, context, t, eps, alpha_bar):
    return F.l1_loss(unet(add_noise(scale * latent, t, eps, alpha_bar), t, context), eps)


def gives_each_item(unet, latent, scale, context, t, eps, alpha_bar):
    error = unet(add_noise(scale * latent, t, eps, alpha_bar), t, context) - eps
    return error.pow(2).mean((1, 2, 3))


def ignores_the_condition(unet, latent, scale, context, t, eps, alpha_bar):
    return F.mse_loss(unet(add_noise(scale * latent, t, eps, alpha_bar), t, 0 * context), eps)


# --- 06.2

def drops_all_or_none(context, empty, draws, share):
    return empty.repeat(len(context), 1, 1) if draws[0] < share else context


def drops_nothing(context, empty, draws, share):
    return context.clone()


def drops_everything(context, empty, draws, share):
    return empty.repeat(len(context), 1, 1)


def keeps_the_share(context, empty, draws, share):
    return torch.where(draws[:, None, None] > share, empty, context)


def puts_zeros(context, empty, draws, share):
    return context * (draws >= share)[:, None, None]


def drops_tokens(context, empty, draws, share):
    result = context.clone()
    result[:, :max(1, round(share * context.shape[1]))] = empty[:, :max(1, round(share * context.shape[1]))]
    return result


def drops_the_first(context, empty, draws, share):
    result = context.clone()
    result[:int(share * len(context))] = empty
    return result


def gives_only_the_kept(context, empty, draws, share):
    return context[draws >= share]


# --- 06.3

def reverses_the_sign(unet, x, t, cond, uncond, scale):
    e_u, e_c = unet(x, t, uncond), unet(x, t, cond)
    return e_u - scale * (e_c - e_u)


def swaps_the_two(unet, x, t, cond, uncond, scale):
    e_u, e_c = unet(x, t, uncond), unet(x, t, cond)
    return e_c + scale * (e_u - e_c)


def takes_one_less(unet, x, t, cond, uncond, scale):
    e_u, e_c = unet(x, t, uncond), unet(x, t, cond)
    return e_u + (scale - 1) * (e_c - e_u)


def starts_at_the_condition(unet, x, t, cond, uncond, scale):
    e_u, e_c = unet(x, t, uncond), unet(x, t, cond)
    return e_c + scale * (e_c - e_u)


def adds_both(unet, x, t, cond, uncond, scale):
    return unet(x, t, uncond) + scale * unet(x, t, cond)


def forgets_the_start(unet, x, t, cond, uncond, scale):
    return scale * (unet(x, t, cond) - unet(x, t, uncond))


def does_not_guide(unet, x, t, cond, uncond, scale):
    return unet(x, t, cond)


def mixes_the_contexts(unet, x, t, cond, uncond, scale):
    return unet(x, t, uncond + scale * (cond - uncond))


def averages(unet, x, t, cond, uncond, scale):
    return (unet(x, t, uncond) + scale * unet(x, t, cond)) / (1 + scale)


def gives_both(unet, x, t, cond, uncond, scale):
    return unet(x, t, uncond), unet(x, t, cond)


# --- 06.4

def takes_the_deviation(latents):
    return latents.flatten().std()


def takes_the_variance(latents):
    return 1 / latents.var()


def counts_the_mean(latents):
    return latents.pow(2).mean() ** -0.5


def forgets_the_root(latents):
    return 1 / latents.pow(2).mean()


def takes_absolute_values(latents):
    return 1 / latents.abs().mean()


def scales_each_channel(latents):
    return 1 / latents.transpose(0, 1).flatten(1).std(1)


def scales_each_latent(latents):
    return (1 / latents.flatten(1).std(1)).mean()


def scales_the_latents(latents):
    return latents / latents.std()


WRONG = {
    "06.1": [
        (forgets_the_scale, "as the encoder gives it"),
        (divides_by_the_scale, "the way back, before decoding"),
        (forgets_the_roots, "The roots are missing"),
        (swaps_signal_and_noise, "Signal and noise are swapped"),
        (adds_up, "You take the sum instead of the mean"),
        (adds_up_the_batch, "You add up the batch"),
        (wants_the_latent, "with the clean latent"),
        (wants_its_input, "with its own input"),
        (takes_l1, "The square is missing"),
        (gives_each_item, "Expected a number, got a tensor of shape (3,)"),
        (ignores_the_condition, "The values are off"),
    ],
    "06.2": [
        (drops_all_or_none, "by one draw"),
        (drops_nothing, "You drop nothing"),
        (drops_everything, "You drop everything"),
        (keeps_the_share, "You drop the wrong items"),
        (puts_zeros, "You put zeros"),
        (drops_tokens, "A condition is dropped as a whole"),
        (drops_the_first, "The values are off"),
        (gives_only_the_kept, "Expected a tensor of shape (12, 5, 6)"),
    ],
    "06.3": [
        (reverses_the_sign, "You lead away from the condition"),
        (swaps_the_two, "Conditional and unconditional are swapped"),
        (takes_one_less, "At scale 1 yours is unconditional"),
        (starts_at_the_condition, "You go one too far"),
        (adds_both, "You add the conditional noise itself"),
        (forgets_the_start, "forget to add it to the unconditional noise"),
        (does_not_guide, "the scale is not used"),
        (mixes_the_contexts, "You mix the contexts"),
        (averages, "The values are off"),
        (gives_both, "Expected a tensor of shape (2, 4, 3, 3), got a tuple of 2"),
    ],
    "06.4": [
        (takes_the_deviation, "the standard deviation itself"),
        (takes_the_variance, "You divide by the variance"),
        (counts_the_mean, "the root mean square"),
        (forgets_the_root, "and no root"),
        (takes_absolute_values, "mean absolute value"),
        (scales_each_channel, "You give each channel its own factor"),
        (scales_each_latent, "The values are off"),
        (scales_the_latents, "Expected a number"),
    ],
}
