/* A policy file on onnxruntime's C API, one observation at a time. Copy policy.h and policy.c into your program.
 *
 *     Policy policy;
 *     int result = policy_load(&policy, "best_model.onnx");
 *     if (result == 0) {
 *         Tensor *obs = policy_input(&policy, "obs"), *action = policy_output(&policy, "action");
 *         policy_reset(&policy);
 *         while (result == 0 && running) {
 *             read_sensors(obs->data);
 *             result = policy_step(&policy);
 *             if (result == 0) move(action->data);
 *         }
 *     }
 *     if (result != 0) fprintf(stderr, "%s\n", policy.error);
 *     policy_free(&policy);
 *
 * Functions that return an int return 0 when they worked; otherwise policy.error says why they did not.
 * A step allocates nothing of its own: the memory of inputs and outputs is there from policy_load to policy_free.
 */
#ifndef POLICY_H
#define POLICY_H

#include <stddef.h>
#include <stdint.h>

#include <onnxruntime_c_api.h>

enum { POLICY_MAX_RANK = 8 };

/* One input or output of the graph, and the memory that it is read from or written to. */
typedef struct {
    char *name;
    ONNXTensorElementDataType type; /* float32, uint8 or bool */
    int64_t shape[POLICY_MAX_RANK]; /* the batch is 1 */
    size_t rank;
    size_t count; /* elements */
    size_t size;  /* bytes */
    void *data;   /* elements, row-major; write inputs here, read outputs here */
} Tensor;

typedef struct {
    Tensor *inputs, *outputs;
    size_t n_inputs, n_outputs;
    char error[512]; /* why the last call failed */

    /* what onnxruntime needs */
    const OrtApi *api;
    OrtEnv *env;
    OrtSessionOptions *options;
    OrtSession *session;
    OrtMemoryInfo *memory;
    OrtAllocator *allocator;
    OrtModelMetadata *metadata;
    const char **input_names, **output_names;
    OrtValue **input_values, **output_values;
} Policy;

/* Load a policy. After a failure only policy.error and policy_free may be used. */
int policy_load(Policy *policy, const char *path);

/* Release everything. */
void policy_free(Policy *policy);

/* An input or output by name, or NULL. */
Tensor *policy_input(const Policy *policy, const char *name);
Tensor *policy_output(const Policy *policy, const char *name);

/* "float32", "uint8" or "bool". */
const char *policy_type_name(ONNXTensorElementDataType type);

/* An entry of the file's metadata; free() it. NULL if there is none, or if it cannot be read. */
char *policy_metadata(Policy *policy, const char *key);

/* Begin an episode: every choice is allowed, and a recurrent policy forgets. */
void policy_reset(Policy *policy);

/* Compute the outputs from the inputs as they are. */
int policy_run(Policy *policy);

/* The same, and keep the state of a recurrent policy for the next step. */
int policy_step(Policy *policy);

#endif
