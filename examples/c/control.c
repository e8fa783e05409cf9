/* Run a policy at its control period: a loop to copy, with read_sensors and send_action for those of your robot.
 *
 * Here the sensors are standard input, one line for each period: the values of every input but the state, in the order
 * of the file, masks as 0 and 1; an empty line where the sensors were silent. Actions go to standard output.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "policy.h"

enum { MAX_SILENT = 3, MAX_LINE = 1 << 20 };

static const int64_t SECOND = 1000000000; /* in nanoseconds, as every time here */

static volatile sig_atomic_t stopped = 0;

static void stop(int signal_number) {
    (void)signal_number;
    stopped = 1;
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

/* An absolute time: what a step takes does not add up, and a signal that stops the loop ends the wait. */
static void sleep_until(int64_t due) {
    const struct timespec time = {due / SECOND, due % SECOND};
    while (!stopped && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR) continue;
}

/* ---- the robot: replace these two ---- */

typedef enum { SILENT, OBSERVED, MALFORMED } Reading;

/* The next line, if it is there: a control loop never waits for a sensor. */
static char *next_line(void) {
    static char text[MAX_LINE + 1];
    static size_t used = 0, taken = 0;
    memmove(text, text + taken, used - taken);
    used -= taken;
    taken = 0;
    char *end;
    while ((end = memchr(text, '\n', used)) == NULL && used < MAX_LINE) {
        struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
        if (poll(&input, 1, 0) <= 0) return NULL;
        ssize_t size = read(STDIN_FILENO, text + used, MAX_LINE - used);
        if (size <= 0) return NULL;
        used += (size_t)size;
    }
    if (end == NULL) end = text + used; /* longer than any observation: what there is of it is refused */
    *end = '\0';
    taken = (size_t)(end - text) + (end < text + used);
    return text;
}

static int is_state(const Tensor *input) {
    return strcmp(input->name, "h_in") == 0 || strcmp(input->name, "c_in") == 0 ||
           strcmp(input->name, "episode_start") == 0;
}

/* Write one value; a uint8 or bool that is none is refused, and floats are looked at later. */
static int set_value(const Tensor *input, size_t index, double value) {
    if (input->type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
        ((float *)input->data)[index] = (float)value;
        return 0;
    }
    double largest = input->type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL ? 1.0 : 255.0;
    if (!(value >= 0.0 && value <= largest && value == floor(value))) return -1;
    ((uint8_t *)input->data)[index] = (uint8_t)value;
    return 0;
}

/* Write what the sensors say into the inputs. After MALFORMED they hold a mixture, which is no observation. */
static Reading read_sensors(const Policy *policy) {
    char *text = next_line();
    if (text == NULL || text[strspn(text, " \r")] == '\0') return SILENT;
    for (size_t i = 0; i < policy->n_inputs; i++) {
        if (is_state(&policy->inputs[i])) continue;
        for (size_t j = 0; j < policy->inputs[i].count; j++) {
            char *end;
            double value = strtod(text, &end);
            if (end == text || set_value(&policy->inputs[i], j, value) != 0) return MALFORMED;
            text = end;
        }
    }
    return text[strspn(text, " \r")] == '\0' ? OBSERVED : MALFORMED;
}

static void send_action(const char *source, const float *action, size_t count) {
    printf("%s", source);
    for (size_t i = 0; i < count; i++) printf(" %.9g", action[i]);
    printf("\n");
    fflush(stdout);
}

/* ---- the loop ---- */

static int is_finite(const Tensor *tensor) {
    if (tensor->type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) return 1;
    for (size_t i = 0; i < tensor->count; i++) {
        if (!isfinite(((const float *)tensor->data)[i])) return 0;
    }
    return 1;
}

static int inputs_are_finite(const Policy *policy) {
    for (size_t i = 0; i < policy->n_inputs; i++) {
        if (!is_finite(&policy->inputs[i])) return 0;
    }
    return 1;
}

/* Compute the action; returns NULL, or why there is none. silent counts the periods without a new observation. */
static const char *decide(Policy *policy, int *silent) {
    Reading reading = read_sensors(policy);
    if (reading == MALFORMED) return "the observation is not what the policy takes";
    if (reading == OBSERVED) *silent = 0;
    else if (*silent < MAX_SILENT) (*silent)++;
    if (*silent == MAX_SILENT) return "no observation";
    if (!inputs_are_finite(policy)) return "the observation is not finite";
    if (policy_step(policy) != 0) return policy->error;
    return is_finite(policy_output(policy, "action")) ? NULL : "the action is not finite";
}

/* Run for some steps, or until a signal where that is 0; the last action is the safe one, however it ends. */
static void control(Policy *policy, int64_t period, long steps, const float *safe) {
    const Tensor *action = policy_output(policy, "action");
    const char *problem = NULL;
    int silent = MAX_SILENT;
    long step = 0, n_safe = 0, overruns = 0;
    int64_t due = now();
    for (; !stopped && (steps == 0 || step < steps); step++) {
        sleep_until(due);
        if (stopped) break;
        const char *before = problem;
        problem = decide(policy, &silent);
        if (problem == NULL) {
            send_action("policy", action->data, action->count);
        } else {
            send_action("safe", safe, action->count);
            policy_reset(policy); /* what a recurrent policy remembers does not fit what the robot did */
            silent = MAX_SILENT;  /* and what it saw last is not used again */
            n_safe++;
            if (problem != before) fprintf(stderr, "step %ld: safe action: %s\n", step, problem);
        }
        due += period;
        int64_t late = now() - due;
        if (late > 0) { /* the step did not fit: leave out what was missed, rather than catch up in a rush */
            overruns++;
            due += (late / period + 1) * period;
        }
    }
    send_action("safe", safe, action->count);
    fprintf(stderr, "%ld steps, %ld with the safe action, %ld overruns\n", step, n_safe, overruns);
}

static int read_number(const char *text, double *number) {
    char *end;
    *number = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*number) ? 0 : -1;
}

/* The action for when there is none of the policy: only you know which one is safe. */
static float *read_safe_action(Policy *policy, int count, char **texts) {
    const Tensor *action = policy_output(policy, "action");
    if (action == NULL || action->type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
        snprintf(policy->error, sizeof policy->error, "the file has no output action of float32");
        return NULL;
    }
    float *safe = (size_t)count == action->count ? malloc(action->size) : NULL;
    for (int i = 0; safe != NULL && i < count; i++) {
        double number;
        if (read_number(texts[i], &number) == 0 && isfinite((float)number)) {
            safe[i] = (float)number;
        } else {
            free(safe);
            safe = NULL;
        }
    }
    if (safe == NULL) snprintf(policy->error, sizeof policy->error, "the safe action takes %zu numbers", action->count);
    return safe;
}

int main(int argc, char **argv) {
    double seconds = 0.0, steps = 0.0;
    if (argc < 5 || read_number(argv[2], &seconds) != 0 || seconds < 1e-9 || seconds > 3600.0 ||
        read_number(argv[3], &steps) != 0 || steps < 0.0 || steps > 1e9 || steps != floor(steps)) {
        fprintf(stderr, "usage: %s POLICY.onnx PERIOD STEPS SAFE_ACTION...\n", argv[0]);
        return 2;
    }
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    Policy policy;
    float *safe = NULL;
    if (policy_load(&policy, argv[1]) == 0) safe = read_safe_action(&policy, argc - 4, argv + 4);
    if (safe == NULL) fprintf(stderr, "error: %s\n", policy.error);
    else control(&policy, (int64_t)(seconds * (double)SECOND), (long)steps, safe);
    int result = safe == NULL ? 1 : 0;
    free(safe);
    policy_free(&policy);
    return result;
}
