"""Wrong answers to the exercises of chapter 11, each with a part of its hint."""
import torch

# --- 11.1


def forgets_that_the_noise_shrinks(x, m):
    return torch.tanh(m ** 0.5 * x / (1 - m))


def stops_after_one_step(x, m):
    return x * (1 - m) ** 0.5


def lands_at_the_mean(x, m):
    return torch.zeros_like(x)


def takes_the_nearer_point(x, m):
    return torch.where(x > 0, 1.0, -1.0)


def forgets_the_variance(x, m):
    first = (1 - m) ** 0.5 * x
    return torch.tanh(m ** 0.5 * first)


def swaps_the_shares(x, m):
    return torch.tanh(x * ((1 - m) / (m + 1e-6)) ** 0.5)


def forgets_the_roots(x, m):
    return torch.tanh(m * x / (1 - m))


def forgets_that_data_shrinks(x, m):
    first = x * (1 - m) ** 0.5
    return torch.tanh(first / (1 - m))


def begins_with_a_share_of_data(x, m):
    return torch.tanh(m ** 0.5 * (m ** 0.5 * x) / (1 - m))


def ends_at_level_m(x, m):
    return m ** 0.5 * torch.tanh(x * (m / (1 - m)) ** 0.5) + (1 - m) ** 0.5 * x


def takes_the_logistic_curve(x, m):
    return torch.sigmoid(x * (m / (1 - m)) ** 0.5)


def gives_both_steps(x, m):
    return (1 - m) ** 0.5 * x, torch.tanh(x * (m / (1 - m)) ** 0.5)


# --- 11.2

def parts(x, alpha_bar, alpha_bar_next):
    shape = [-1] + [1] * (x.ndim - 1)
    return alpha_bar.reshape(shape), alpha_bar_next.reshape(shape)


def takes_the_goal_for_clean(x, goal, alpha_bar, alpha_bar_next):
    a, _ = parts(x, alpha_bar, alpha_bar_next)
    return (x - a.sqrt() * goal) / (1 - a).sqrt()


def led(x, goal, a, b):
    return (goal - (b / a) ** 0.5 * x) / ((1 - b) ** 0.5 - (b / a * (1 - a)) ** 0.5)


def swaps_the_levels(x, goal, alpha_bar, alpha_bar_next):
    b, a = parts(x, alpha_bar, alpha_bar_next)
    return led(x, goal, a, b)


def turns_the_sign(x, goal, alpha_bar, alpha_bar_next):
    return -led(x, goal, *parts(x, alpha_bar, alpha_bar_next))


def subtracts_x(x, goal, alpha_bar, alpha_bar_next):
    a, b = parts(x, alpha_bar, alpha_bar_next)
    return (goal - x) / ((1 - b) ** 0.5 - (b / a * (1 - a)) ** 0.5)


def forgets_the_noise_put_back(x, goal, alpha_bar, alpha_bar_next):
    a, b = parts(x, alpha_bar, alpha_bar_next)
    return (goal - (b / a) ** 0.5 * x) / -((b / a) * (1 - a)) ** 0.5


def forgets_the_noise_taken_away(x, goal, alpha_bar, alpha_bar_next):
    a, b = parts(x, alpha_bar, alpha_bar_next)
    return (goal - (b / a) ** 0.5 * x) / ((1 - b) ** 0.5 + 1e-9)


def forgets_to_divide_the_root(x, goal, alpha_bar, alpha_bar_next):
    a, b = parts(x, alpha_bar, alpha_bar_next)
    return (goal - (b / a) ** 0.5 * x) / ((1 - b) ** 0.5 - (b * (1 - a)) ** 0.5)


def forgets_to_scale_the_root(x, goal, alpha_bar, alpha_bar_next):
    a, b = parts(x, alpha_bar, alpha_bar_next)
    return (goal - (b / a) ** 0.5 * x) / ((1 - b) ** 0.5 - (1 - a) ** 0.5)


def multiplies(x, goal, alpha_bar, alpha_bar_next):
    a, b = parts(x, alpha_bar, alpha_bar_next)
    return (goal - (b / a) ** 0.5 * x) * ((1 - b) ** 0.5 - (b / a * (1 - a)) ** 0.5)


def cuts_the_gradient(x, goal, alpha_bar, alpha_bar_next):
    return led(x.detach(), goal.detach(), *parts(x, alpha_bar, alpha_bar_next))


def does_not_align_the_levels(x, goal, alpha_bar, alpha_bar_next):
    return led(x[0, 0], goal[0, 0], alpha_bar[0], alpha_bar_next[0])


# --- 11.3

def step(x, eps, a, b):
    a, b = a.view(-1, 1), b.view(-1, 1)
    return (b / a) ** 0.5 * (x - (1 - a) ** 0.5 * eps) + (1 - b) ** 0.5 * eps


@torch.no_grad()
def two(teacher, x, a, m, b):
    half = step(x, teacher(x, a), a, m)
    return step(half, teacher(half, m), m, b)


def lets_the_gradient_through_the_goal(student, teacher, x, a, m, b):
    half = step(x, teacher(x, a), a, m)
    goal = step(half, teacher(half, m), m, b)
    return ((step(x, student(x, a), a, b) - goal) ** 2).mean()


def trains_nothing(student, teacher, x, a, m, b):
    with torch.no_grad():
        return ((step(x, student(x, a), a, b) - two(teacher, x, a, m, b)) ** 2).mean()


def looks_once(student, teacher, x, a, m, b):
    with torch.no_grad():
        eps = teacher(x, a)
        goal = step(step(x, eps, a, m), eps, m, b)
    return ((step(x, student(x, a), a, b) - goal) ** 2).mean()


def looks_at_the_old_level(student, teacher, x, a, m, b):
    with torch.no_grad():
        half = step(x, teacher(x, a), a, m)
        goal = step(half, teacher(half, a), m, b)
    return ((step(x, student(x, a), a, b) - goal) ** 2).mean()


def looks_at_the_old_point(student, teacher, x, a, m, b):
    with torch.no_grad():
        goal = step(step(x, teacher(x, a), a, m), teacher(x, m), m, b)
    return ((step(x, student(x, a), a, b) - goal) ** 2).mean()


def stops_the_teacher_halfway(student, teacher, x, a, m, b):
    with torch.no_grad():
        goal = step(x, teacher(x, a), a, m)
    return ((step(x, student(x, a), a, b) - goal) ** 2).mean()


def stops_the_student_halfway(student, teacher, x, a, m, b):
    return ((step(x, student(x, a), a, m) - two(teacher, x, a, m, b)) ** 2).mean()


def compares_noises(student, teacher, x, a, m, b):
    with torch.no_grad():
        goal = teacher(x, a)
    return ((student(x, a) - goal) ** 2).mean()


def adds_up(student, teacher, x, a, m, b):
    return ((step(x, student(x, a), a, b) - two(teacher, x, a, m, b)) ** 2).sum()


def keeps_each_number(student, teacher, x, a, m, b):
    return (step(x, student(x, a), a, b) - two(teacher, x, a, m, b)) ** 2


# --- 11.4

def goal_of(network, z_t, t, cond, uncond, scale):
    with torch.no_grad():
        e_uncond, e_cond = network(z_t, t, uncond), network(z_t, t, cond)
    return e_uncond + scale * (e_cond - e_uncond)


def leaves_the_goal_to_the_student(student, teacher, z_t, t, cond, uncond, scale):
    return ((student(z_t, t, cond) - goal_of(student, z_t, t, cond, uncond, scale)) ** 2).mean()


def leaves_the_formula(student, teacher, z_t, t, cond, uncond, scale):
    with torch.no_grad():
        e_uncond, e_cond = teacher(z_t, t, uncond), teacher(z_t, t, cond)
        goal = e_cond + scale * (e_cond - e_uncond)
    return ((student(z_t, t, cond) - goal) ** 2).mean()


def leads_away(student, teacher, z_t, t, cond, uncond, scale):
    return ((student(z_t, t, cond) - goal_of(teacher, z_t, t, uncond, cond, scale)) ** 2).mean()


def leaves_the_student_without_prompt(student, teacher, z_t, t, cond, uncond, scale):
    return ((student(z_t, t, uncond) - goal_of(teacher, z_t, t, cond, uncond, scale)) ** 2).mean()


def drops_guidance(student, teacher, z_t, t, cond, uncond, scale):
    return ((student(z_t, t, cond) - goal_of(teacher, z_t, t, cond, uncond, 1.0)) ** 2).mean()


def forgets_the_unconditional(student, teacher, z_t, t, cond, uncond, scale):
    with torch.no_grad():
        goal = scale * (teacher(z_t, t, cond) - teacher(z_t, t, uncond))
    return ((student(z_t, t, cond) - goal) ** 2).mean()


def guides_the_student(student, teacher, z_t, t, cond, uncond, scale):
    mine = student(z_t, t, uncond) + scale * (student(z_t, t, cond) - student(z_t, t, uncond))
    return ((mine - goal_of(teacher, z_t, t, cond, uncond, scale)) ** 2).mean()


def takes_the_absolute_difference(student, teacher, z_t, t, cond, uncond, scale):
    return (student(z_t, t, cond) - goal_of(teacher, z_t, t, cond, uncond, scale)).abs().mean()


def sums_the_squares(student, teacher, z_t, t, cond, uncond, scale):
    return ((student(z_t, t, cond) - goal_of(teacher, z_t, t, cond, uncond, scale)) ** 2).sum()


def keeps_the_gradient_of_the_goal(student, teacher, z_t, t, cond, uncond, scale):
    e_uncond, e_cond = teacher(z_t, t, uncond), teacher(z_t, t, cond)
    return ((student(z_t, t, cond) - e_uncond - scale * (e_cond - e_uncond)) ** 2).mean()


def learns_nothing(student, teacher, z_t, t, cond, uncond, scale):
    return ((student(z_t, t, cond) - goal_of(teacher, z_t, t, cond, uncond, scale)) ** 2).mean().detach()


def gives_the_difference(student, teacher, z_t, t, cond, uncond, scale):
    return student(z_t, t, cond) - goal_of(teacher, z_t, t, cond, uncond, scale)


WRONG = {
    "11.1": [
        (forgets_that_the_noise_shrinks, "You stay at x in the first step"),
        (stops_after_one_step, "where the first step lands"),
        (lands_at_the_mean, "where one step would land"),
        (takes_the_nearer_point, "You choose the nearer point"),
        (forgets_the_variance, "forget to divide by the variance"),
        (swaps_the_shares, "m and 1 - m are swapped"),
        (forgets_the_roots, "The factors are their roots"),
        (forgets_that_data_shrinks, "the point itself is scaled"),
        (ends_at_level_m, "You end at level m"),
        (takes_the_logistic_curve, "off by up to"),
        (gives_both_steps, "Expected a tensor of shape (6,)")],
    "11.2": [
        (takes_the_goal_for_clean, "take the goal for clean data"),
        (swaps_the_levels, "swap the two levels"),
        (turns_the_sign, "The sign is wrong"),
        (subtracts_x, "You subtract x, not A x"),
        (forgets_the_noise_put_back, "noise that the step puts back"),
        (forgets_the_noise_taken_away, "the step takes away"),
        (forgets_to_divide_the_root, "lacks its division"),
        (forgets_to_scale_the_root, "must be scaled by"),
        (multiplies, "You multiply by C"),
        (cuts_the_gradient, "no gradient passes"),
        (does_not_align_the_levels, "Expected a tensor of shape (2, 4, 3, 3)")],
    "11.3": [
        (lets_the_gradient_through_the_goal, "their gradient is not"),
        (trains_nothing, "no gradient passes"),
        (looks_once, "two with the same eps are one"),
        (looks_at_the_old_level, "at the level where it began"),
        (looks_at_the_old_point, "at the point where it began"),
        (stops_the_teacher_halfway, "Your goal is the teacher's first step"),
        (stops_the_student_halfway, "Your student goes to m only"),
        (compares_noises, "You compare two noises"),
        (adds_up, "You add up the squares"),
        (keeps_each_number, "Expected a number, got a tensor")],
    "11.4": [
        (leaves_the_goal_to_the_student, "made by the student"),
        (leaves_the_formula, "The formula starts from e_cond"),
        (leads_away, "The two predictions are swapped"),
        (leaves_the_student_without_prompt, "told nothing of the prompt"),
        (drops_guidance, "must have `scale` in it"),
        (forgets_the_unconditional, "forget e_uncond"),
        (guides_the_student, "You guide the student, too"),
        (takes_the_absolute_difference, "absolute difference"),
        (sums_the_squares, "You add up the squares"),
        (keeps_the_gradient_of_the_goal, "their gradient is not"),
        (learns_nothing, "no gradient passes"),
        (gives_the_difference, "Expected a number, got a tensor")]}
