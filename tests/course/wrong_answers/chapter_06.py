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


def averages_over_the_batch_only(unet, latent, scale, context, t, eps, alpha_bar):
    error = unet(add_noise(scale * latent, t, eps, alpha_bar), t, context) - eps
    return error.pow(2).flatten(1).sum(1).mean()


def trains_nothing(unet, latent, scale, context, t, eps, alpha_bar):
    with torch.no_grad():
        return F.mse_loss(unet(add_noise(scale * latent, t, eps, alpha_bar), t, context), eps)


def detaches_one_factor(unet, latent, scale, context, t, eps, alpha_bar):
    error = unet(add_noise(scale * latent, t, eps, alpha_bar), t, context) - eps
    return (error * error.detach()).mean()


# --- 06.2
def guided_by(unet, x, t, cond, uncond, scale):
    e_u, e_c = unet(x, t, uncond), unet(x, t, cond)
    return e_u + scale * (e_c - e_u)


def reverses_the_sign(unet, x, t, cond_1, cond_2, uncond, scale_1, scale_2):
    e_u, e_1, e_2 = (unet(x, t, c) for c in (uncond, cond_1, cond_2))
    return e_u - scale_1 * (e_1 - e_u) - scale_2 * (e_2 - e_u)


def swaps_the_scales(unet, x, t, cond_1, cond_2, uncond, scale_1, scale_2):
    e_u, e_1, e_2 = (unet(x, t, c) for c in (uncond, cond_1, cond_2))
    return e_u + scale_2 * (e_1 - e_u) + scale_1 * (e_2 - e_u)


def takes_one_less(unet, x, t, cond_1, cond_2, uncond, scale_1, scale_2):
    e_u, e_1, e_2 = (unet(x, t, c) for c in (uncond, cond_1, cond_2))
    return e_u + (scale_1 - 1) * (e_1 - e_u) + (scale_2 - 1) * (e_2 - e_u)


def starts_twice(unet, x, t, cond_1, cond_2, uncond, scale_1, scale_2):
    return guided_by(unet, x, t, cond_1, uncond, scale_1) + guided_by(unet, x, t, cond_2, uncond, scale_2)


def adds_all(unet, x, t, cond_1, cond_2, uncond, scale_1, scale_2):
    return unet(x, t, uncond) + scale_1 * unet(x, t, cond_1) + scale_2 * unet(x, t, cond_2)


def forgets_the_start(unet, x, t, cond_1, cond_2, uncond, scale_1, scale_2):
    e_u, e_1, e_2 = (unet(x, t, c) for c in (uncond, cond_1, cond_2))
    return scale_1 * (e_1 - e_u) + scale_2 * (e_2 - e_u)


def uses_only_the_first(unet, x, t, cond_1, cond_2, uncond, scale_1, scale_2):
    return guided_by(unet, x, t, cond_1, uncond, scale_1)


def leads_from_one_to_the_other(unet, x, t, cond_1, cond_2, uncond, scale_1, scale_2):
    e_u, e_1, e_2 = (unet(x, t, c) for c in (uncond, cond_1, cond_2))
    return e_u + scale_1 * (e_1 - e_u) + scale_2 * (e_2 - e_1)


def takes_the_mean(unet, x, t, cond_1, cond_2, uncond, scale_1, scale_2):
    return starts_twice(unet, x, t, cond_1, cond_2, uncond, scale_1, scale_2) / 2


def mixes_the_contexts(unet, x, t, cond_1, cond_2, uncond, scale_1, scale_2):
    return unet(x, t, uncond + scale_1 * (cond_1 - uncond) + scale_2 * (cond_2 - uncond))


def gives_two(unet, x, t, cond_1, cond_2, uncond, scale_1, scale_2):
    return guided_by(unet, x, t, cond_1, uncond, scale_1), guided_by(unet, x, t, cond_2, uncond, scale_2)


# --- 06.3

def drops_all_or_none(context, empty, draws, share):
    return empty.repeat(len(context), 1, 1) if draws[0] < share else context


def drops_nothing(context, empty, draws, share):
    return context.clone()


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


# --- 06.4

def eps_of(x, v, t, alpha_bar):
    return columns((1 - alpha_bar[t]).sqrt()) * x + columns(alpha_bar[t].sqrt()) * v


def guides_in(net, x, t, cond, uncond, scale):
    v_u, v_c = net(x, t, uncond), net(x, t, cond)
    return v_u + scale * (v_c - v_u)


def gives_v(net, x, t, cond, uncond, scale, alpha_bar):
    return guides_in(net, x, t, cond, uncond, scale)


def swaps_the_roots(net, x, t, cond, uncond, scale, alpha_bar):
    return eps_of(x, guides_in(net, x, t, cond, uncond, scale), t, 1 - alpha_bar)


def gives_the_latent(net, x, t, cond, uncond, scale, alpha_bar):
    v = guides_in(net, x, t, cond, uncond, scale)
    return columns(alpha_bar[t].sqrt()) * x - columns((1 - alpha_bar[t]).sqrt()) * v


def subtracts_v(net, x, t, cond, uncond, scale, alpha_bar):
    return eps_of(x, -guides_in(net, x, t, cond, uncond, scale), t, alpha_bar)


def leaves_out_the_input(net, x, t, cond, uncond, scale, alpha_bar):
    return columns(alpha_bar[t].sqrt()) * guides_in(net, x, t, cond, uncond, scale)


def mixes_variances(net, x, t, cond, uncond, scale, alpha_bar):
    return columns(1 - alpha_bar[t]) * x + columns(alpha_bar[t]) * guides_in(net, x, t, cond, uncond, scale)


def converts_without_guiding(net, x, t, cond, uncond, scale, alpha_bar):
    return eps_of(x, net(x, t, cond), t, alpha_bar)


def converts_only_one(net, x, t, cond, uncond, scale, alpha_bar):
    e_u, v_c = eps_of(x, net(x, t, uncond), t, alpha_bar), net(x, t, cond)
    return e_u + scale * (v_c - e_u)


def gives_one_of_each(net, x, t, cond, uncond, scale, alpha_bar):
    return eps_of(x, net(x, t, uncond), t, alpha_bar), eps_of(x, net(x, t, cond), t, alpha_bar)


def takes_one_level(net, x, t, cond, uncond, scale, alpha_bar):
    return eps_of(x, guides_in(net, x, t, cond, uncond, scale), t[:1], alpha_bar)


WRONG = {
    "06.1": [
        (forgets_the_scale, "as the encoder gives it"),
        (divides_by_the_scale, "as before decoding"),
        (forgets_the_roots, "The roots are missing"),
        (swaps_signal_and_noise, "Signal and noise are swapped"),
        (adds_up, "You take the sum instead of the mean"),
        (adds_up_the_batch, "You add up the batch"),
        (wants_the_latent, "with the clean latent"),
        (wants_its_input, "The values are off"),
        (takes_l1, "The values are off"),
        (gives_each_item, "Expected a number, got a tensor of shape (3,)"),
        (ignores_the_condition, "The values are off"),
        (averages_over_the_batch_only, "average only over the batch"),
        (trains_nothing, "no gradient passes"),
        (detaches_one_factor, "their gradient is not"),
    ],
    "06.2": [
        (reverses_the_sign, "You lead away from the conditions"),
        (swaps_the_scales, "the other's scale"),
        (takes_one_less, "one too small"),
        (starts_twice, "counts twice"),
        (adds_all, "You add the conditional noises themselves"),
        (forgets_the_start, "itself is missing"),
        (uses_only_the_first, "The second condition is not used"),
        (leads_from_one_to_the_other, "The values are off"),
        (takes_the_mean, "The values are off"),
        (mixes_the_contexts, "The values are off"),
        (gives_two, "Expected a tensor of shape (2, 4, 3, 3), got a tuple of 2"),
    ],
    "06.3": [
        (drops_all_or_none, "by one draw"),
        (drops_nothing, "You drop nothing"),
        (keeps_the_share, "You drop the wrong items"),
        (puts_zeros, "You put zeros"),
        (drops_tokens, "The values are off"),
        (drops_the_first, "The values are off"),
        (gives_only_the_kept, "Expected a tensor of shape (12, 5, 6)"),
    ],
    "06.4": [
        (gives_v, "That is guided v"),
        (swaps_the_roots, "Signal and noise are swapped"),
        (gives_the_latent, "That is the clean latent"),
        (subtracts_v, "The sign of v is wrong"),
        (leaves_out_the_input, "The part of z_t is missing"),
        (mixes_variances, "The roots are missing"),
        (converts_without_guiding, "You do not guide"),
        (converts_only_one, "The values are off"),
        (takes_one_level, "The values are off"),
        (gives_one_of_each, "Expected a tensor of shape (3, 4, 3, 3), got a tuple of 2"),
    ],
}
