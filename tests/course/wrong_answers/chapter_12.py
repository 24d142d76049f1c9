"""Wrong answers to the exercises of chapter 12, each with a part of its hint."""
import torch
import torch.nn.functional as F

# --- 12.1


def weigh(z, data, signal, variance):
    logits = torch.stack([-((z - signal * x) ** 2).sum(1) / (2 * variance) for x in data], 1)
    return torch.softmax(logits, 1) @ data


def does_not_shrink_the_data(z, t, data):
    return (z - weigh(z, data, 1, t**2)) / t


def forgets_the_noise_level(z, t, data):
    return (z - weigh(z, data, 1 - t, 1)) / t


def forgets_the_two(z, t, data):
    return (z - weigh(z, data, 1 - t, t**2 / 2)) / t


def takes_t_for_the_variance(z, t, data):
    return (z - weigh(z, data, 1 - t, t)) / t


def gives_the_data(z, t, data):
    return weigh(z, data, 1 - t, t**2)


def goes_the_other_way(z, t, data):
    return (weigh(z, data, 1 - t, t**2) - z) / t


def takes_the_point_for_noise(z, t, data):
    return z - weigh(z, data, 1 - t, t**2)


def gives_the_noise(z, t, data):
    return (z - (1 - t) * weigh(z, data, 1 - t, t**2)) / t


def takes_the_nearest(z, t, data):
    pick = torch.stack([((z - (1 - t) * x) ** 2).sum(1) for x in data], 1).argmin(1)
    return (z - data[pick]) / t


def takes_the_mean(z, t, data):
    return (z - data.mean(0, keepdim=True)) / t


def forgets_to_normalise(z, t, data):
    weight = torch.stack([torch.exp(-((z - (1 - t) * x) ** 2).sum(1) / (2 * t**2)) for x in data], 1)
    return (z - weight @ data) / t


def underflows(z, t, data):
    weight = torch.stack([torch.exp(-40 - ((z - (1 - t) * x) ** 2).sum(1) / (2 * t**2)) for x in data], 1)
    return (z - weight / weight.sum(1, keepdim=True) @ data) / t


def averages_the_batch(z, t, data):
    return ((z - weigh(z, data, 1 - t, t**2)) / t).mean(0)


# --- 12.2

def error(eps_hat, eps):
    return ((eps_hat - eps) ** 2).mean(dim=(1, 2, 3))


def is_the_noise_loss(eps_hat, z_0, eps, t):
    return error(eps_hat, eps)


def forgets_the_square(eps_hat, z_0, eps, t):
    return error(eps_hat, eps) / (1 - t)


def turns_it_upside_down(eps_hat, z_0, eps, t):
    return error(eps_hat, eps) * (1 - t) ** 2


def weighs_an_error_in_the_data(eps_hat, z_0, eps, t):
    return error(eps_hat, eps) / t**2


def gives_the_error_in_the_data(eps_hat, z_0, eps, t):
    return error(eps_hat, eps) * t**2 / (1 - t) ** 2


def subtracts_the_data_once(eps_hat, z_0, eps, t):
    return error(eps_hat - z_0, eps)


def takes_it_for_a_velocity(eps_hat, z_0, eps, t):
    return error(eps_hat, eps - z_0)


def adds(eps_hat, z_0, eps, t):
    return ((eps_hat - eps) ** 2).sum(dim=(1, 2, 3)) / (1 - t) ** 2


def averages_all(eps_hat, z_0, eps, t):
    return (error(eps_hat, eps) / (1 - t) ** 2).mean()


def trains_nothing(eps_hat, z_0, eps, t):
    return error(eps_hat.detach(), eps) / (1 - t) ** 2


def holds_the_implied_data(eps_hat, z_0, eps, t):
    share = t[:, None, None, None]
    z_t = (1 - share) * z_0 + share * eps
    implied = ((z_t - share * eps_hat) / (1 - share)).detach()
    return ((eps_hat - implied - (eps - z_0)) ** 2).mean(dim=(1, 2, 3))


# --- 12.3

def reshapes(tokens, height, width, p):
    return tokens.reshape(tokens.shape[0], tokens.shape[2] // p**2, height, width)


def goes_by_columns(tokens, height, width, p):
    picture = torch.zeros(len(tokens), tokens.shape[2] // p**2, height, width)
    places = [(i, j) for j in range(0, width, p) for i in range(0, height, p)]
    for token, (i, j) in zip(tokens.unbind(1), places):
        picture[:, :, i:i + p, j:j + p] = token.reshape(len(tokens), -1, p, p)
    return picture


def transposes_each_patch(tokens, height, width, p):
    picture = torch.zeros(len(tokens), tokens.shape[2] // p**2, height, width)
    places = [(i, j) for i in range(0, height, p) for j in range(0, width, p)]
    for token, (i, j) in zip(tokens.unbind(1), places):
        picture[:, :, i:i + p, j:j + p] = token.reshape(len(tokens), -1, p, p).transpose(2, 3)
    return picture


def has_the_channels_last(tokens, height, width, p):
    picture = torch.zeros(len(tokens), tokens.shape[2] // p**2, height, width)
    places = [(i, j) for i in range(0, height, p) for j in range(0, width, p)]
    for token, (i, j) in zip(tokens.unbind(1), places):
        picture[:, :, i:i + p, j:j + p] = token.reshape(len(tokens), p, p, -1).permute(0, 3, 1, 2)
    return picture


def transposes_the_tokens(tokens, height, width, p):
    return tokens.transpose(1, 2).reshape(len(tokens), tokens.shape[2] // p**2, height, width)


def keeps_patches_together(tokens, height, width, p):
    parts = tokens.reshape(len(tokens), height // p, width // p, -1, p, p).permute(0, 3, 1, 2, 4, 5)
    return parts.reshape(len(tokens), -1, height, width)


def fixes_the_size(tokens, height, width, p):
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (height // 2, width // 2)), 2)


def gives_the_patches(tokens, height, width, p):
    return tokens.reshape(len(tokens), height // p, width // p, -1, p, p)


def copies_by_hand(tokens, height, width, p):
    return F.pixel_shuffle(tokens.detach().transpose(1, 2).unflatten(2, (height // p, width // p)), p)


# --- 12.4

def normed(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def parts(six):
    return [part[:, None] for part in six.chunk(6, dim=1)]


def as_found(x, six, attn, mlp):
    shift1, scale1, gate1, shift2, scale2, gate2 = parts(six)
    return gate1 * attn(normed(x) * scale1 + shift1) + gate2 * mlp(normed(x) * scale2 + shift2)


def leaves_the_scales(x, six, attn, mlp):
    shift1, scale1, gate1, shift2, scale2, gate2 = parts(six)
    x = x + gate1 * attn(normed(x) * scale1 + shift1)
    return x + gate2 * mlp(normed(x) * scale2 + shift2)


def leaves_x_out(x, six, attn, mlp):
    shift1, scale1, gate1, shift2, scale2, gate2 = parts(six)
    return (gate1 * attn(normed(x) * (1 + scale1) + shift1)
            + gate2 * mlp(normed(x) * (1 + scale2) + shift2))


def reads_the_old_x(x, six, attn, mlp):
    return x + leaves_x_out(x, six, attn, mlp)


def only_adds_x(x, six, attn, mlp):
    return x + as_found(x, six, attn, mlp)


def only_chains(x, six, attn, mlp):
    shift1, scale1, gate1, shift2, scale2, gate2 = parts(six)
    a = gate1 * attn(normed(x) * scale1 + shift1)
    return a + gate2 * mlp(normed(a) * scale2 + shift2)


def chains_and_scales(x, six, attn, mlp):
    shift1, scale1, gate1, shift2, scale2, gate2 = parts(six)
    a = gate1 * attn(normed(x) * (1 + scale1) + shift1)
    return a + gate2 * mlp(normed(a) * (1 + scale2) + shift2)


def gates_x(x, six, attn, mlp):
    shift1, scale1, gate1, shift2, scale2, gate2 = parts(six)
    x = gate1 * (x + attn(normed(x) * (1 + scale1) + shift1))
    return gate2 * (x + mlp(normed(x) * (1 + scale2) + shift2))


def mixes_up_the_six(x, six, attn, mlp):
    scale1, shift1, gate1, scale2, shift2, gate2 = parts(six)
    x = x + gate1 * attn(normed(x) * (1 + scale1) + shift1)
    return x + gate2 * mlp(normed(x) * (1 + scale2) + shift2)


def cuts_the_gradient(x, six, attn, mlp):
    shift1, scale1, gate1, shift2, scale2, gate2 = parts(six)
    x = x + gate1 * attn(normed(x.detach()) * (1 + scale1) + shift1)
    return x + gate2 * mlp(normed(x) * (1 + scale2) + shift2)


def gives_both(x, six, attn, mlp):
    return x, as_found(x, six, attn, mlp)


WRONG = {
    "12.1": [
        (does_not_shrink_the_data, "for (1 - t) of itself"),
        (forgets_the_noise_level, "do not depend on t"),
        (forgets_the_two, "the factor 2 is missing"),
        (takes_t_for_the_variance, "its variance is t²"),
        (gives_the_data, "You give the mean of the data"),
        (goes_the_other_way, "points from data to noise"),
        (takes_the_point_for_noise, "z is not the noise"),
        (gives_the_noise, "That is the mean noise"),
        (takes_the_nearest, "not the nearest alone"),
        (takes_the_mean, "All points count alike"),
        (forgets_to_normalise, "do not add up to 1"),
        (underflows, "infinite or not a number"),
        (averages_the_batch, "Expected a tensor of shape"),
    ],
    "12.2": [
        (is_the_noise_loss, "That is the noise loss"),
        (forgets_the_square, "Square the factor"),
        (turns_it_upside_down, "Upside down"),
        (weighs_an_error_in_the_data, "for an error in z_0"),
        (gives_the_error_in_the_data, "an error in eps implies"),
        (subtracts_the_data_once, "must be predicted as well"),
        (takes_it_for_a_velocity, "for a velocity"),
        (adds, "you add them"),
        (averages_all, "Expected a tensor of shape"),
        (trains_nothing, "no gradient passes"),
        (holds_the_implied_data, "their gradient is not"),
    ],
    "12.3": [
        (reshapes, "A bare reshape"),
        (goes_by_columns, "column by column"),
        (transposes_each_patch, "Each patch is transposed"),
        (has_the_channels_last, "the channels come first"),
        (transposes_the_tokens, "Transposing first"),
        (keeps_patches_together, "in the order B, C, h/p, w/p, p, p"),
        (fixes_the_size, "Your function stops with"),
        (gives_the_patches, "Expected a tensor of shape"),
        (copies_by_hand, "no gradient passes"),
    ],
    "12.4": [
        (as_found, "You changed nothing that matters"),
        (leaves_the_scales, "a scale of 0 deletes"),
        (leaves_x_out, "with closed gates"),
        (reads_the_old_x, "as it was before the attention"),
        (only_adds_x, "the scales, and what the MLP reads"),
        (only_chains, "the scales, and that nothing is added"),
        (chains_and_scales, "must read x plus"),
        (gates_x, "You gate x as well"),
        (mixes_up_the_six, "The values are off"),
        (cuts_the_gradient, "their gradient is not"),
        (gives_both, "Expected a tensor"),
    ],
}
