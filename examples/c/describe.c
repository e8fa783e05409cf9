/* Print what a policy file says of itself: its inputs, its outputs, and its metadata. */
#include <stdio.h>
#include <stdlib.h>

#include "policy.h"

/* The nine keys of the policy contract, and the record that holds everything else as JSON. */
static const char *const KEYS[] = {
    "clanker_policy_version", "action_space", "action_transform",   "action_scale",    "action_offset",
    "training_framework",     "recurrent",    "deterministic_mode", "batch_inference", "sb3_clanker",
};

static void print_tensor(const char *what, const Tensor *tensor) {
    printf("%s %s: %s [", what, tensor->name, policy_type_name(tensor->type));
    for (size_t i = 0; i < tensor->rank; i++) printf(i == 0 ? "%lld" : ", %lld", (long long)tensor->shape[i]);
    printf("]\n");
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s POLICY.onnx\n", argv[0]);
        return 2;
    }
    Policy policy;
    if (policy_load(&policy, argv[1]) != 0) {
        fprintf(stderr, "error: %s\n", policy.error);
        policy_free(&policy);
        return 1;
    }
    for (size_t i = 0; i < policy.n_inputs; i++) print_tensor("input", &policy.inputs[i]);
    for (size_t i = 0; i < policy.n_outputs; i++) print_tensor("output", &policy.outputs[i]);
    int result = 0;
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
        char *value = policy_metadata(&policy, KEYS[i]);
        if (value == NULL) {
            fprintf(stderr, "error: the file has no %s\n", KEYS[i]);
            result = 1;
        } else {
            printf("%s: %s\n", KEYS[i], value);
        }
        free(value);
    }
    policy_free(&policy);
    return result;
}
