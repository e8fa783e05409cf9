/* Balance a pole with a policy that was trained on gymnasium's CartPole-v1. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy.h"

enum { MAX_STEPS = 500 };

/* Position and speed of the cart in m and m/s, angle and angular speed of the pole in rad and rad/s. */
typedef struct {
    double x, v, theta, omega;
} State;

/* One step of CartPole-v1: its constants, and its explicit Euler integration. */
static void move(State *state, int push_right) {
    const double gravity = 9.8, mass_cart = 1.0, mass_pole = 0.1, half_length = 0.5, force_size = 10.0, dt = 0.02;
    const double mass = mass_cart + mass_pole, moment = mass_pole * half_length;
    const double force = push_right ? force_size : -force_size;
    const double sine = sin(state->theta), cosine = cos(state->theta);
    const double push = (force + moment * state->omega * state->omega * sine) / mass;
    const double turn =
        (gravity * sine - cosine * push) / (half_length * (4.0 / 3.0 - mass_pole * cosine * cosine / mass));
    const double acceleration = push - moment * turn * cosine / mass;
    state->x += dt * state->v;
    state->v += dt * acceleration;
    state->theta += dt * state->omega;
    state->omega += dt * turn;
}

static int fallen(const State *state) {
    const double degrees = 3.14159265358979323846 / 180.0;
    return fabs(state->x) > 2.4 || fabs(state->theta) > 12.0 * degrees;
}

/* The number of steps that the policy keeps the pole up, or -1. */
static int play(Policy *policy, State state) {
    float *obs = policy_input(policy, "obs")->data;
    const float *action = policy_output(policy, "action")->data;
    policy_reset(policy);
    for (int step = 1; step <= MAX_STEPS; step++) {
        obs[0] = (float)state.x;
        obs[1] = (float)state.v;
        obs[2] = (float)state.theta;
        obs[3] = (float)state.omega;
        if (policy_step(policy) != 0) return -1;
        move(&state, action[0] == 1.0f);
        if (fallen(&state)) return step;
    }
    return MAX_STEPS;
}

static int is_cartpole(const Policy *policy) {
    const Tensor *obs = policy_input(policy, "obs"), *action = policy_output(policy, "action");
    return obs != NULL && obs->type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT && obs->count == 4 && action != NULL &&
           action->type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT && action->count == 1;
}

static int read_number(const char *text, double *number) {
    char *end;
    *number = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*number) ? 0 : -1;
}

int main(int argc, char **argv) {
    State state = {0.01, 0.0, 0.03, 0.0};
    int understood = argc == 2 || argc == 6;
    if (argc == 6) {
        understood = read_number(argv[2], &state.x) == 0 && read_number(argv[3], &state.v) == 0 &&
                     read_number(argv[4], &state.theta) == 0 && read_number(argv[5], &state.omega) == 0;
    }
    if (!understood) {
        fprintf(stderr, "usage: %s POLICY.onnx [X V THETA OMEGA]\n", argv[0]);
        return 2;
    }
    Policy policy;
    int steps = -1;
    if (policy_load(&policy, argv[1]) == 0) {
        if (is_cartpole(&policy)) {
            steps = play(&policy, state);
        } else {
            snprintf(policy.error, sizeof policy.error, "this policy does not take what CartPole-v1 shows");
        }
    }
    if (steps < 0) fprintf(stderr, "error: %s\n", policy.error);
    else printf("%d steps\n", steps);
    policy_free(&policy);
    return steps < 0 ? 1 : 0;
}
