#include "policy.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(Policy *policy, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(policy->error, sizeof policy->error, format, arguments);
    va_end(arguments);
    return -1;
}

/* What every call of onnxruntime returns: NULL, or a status to be released. */
static int check(Policy *policy, OrtStatus *status) {
    if (status == NULL) return 0;
    fail(policy, "%s", policy->api->GetErrorMessage(status));
    policy->api->ReleaseStatus(status);
    return -1;
}

static char *copy_text(const char *text) {
    char *copy = malloc(strlen(text) + 1);
    if (copy != NULL) strcpy(copy, text);
    return copy;
}

static size_t element_size(ONNXTensorElementDataType type) {
    switch (type) {
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return sizeof(float);
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return 1;
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return 1;
        default: return 0;
    }
}

const char *policy_type_name(ONNXTensorElementDataType type) {
    switch (type) {
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return "float32";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return "uint8";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return "bool";
        default: return "another type";
    }
}

/* Take type and shape of a tensor from the graph. */
static int describe(Policy *policy, Tensor *tensor, const OrtTypeInfo *type_info) {
    const OrtApi *api = policy->api;
    const OrtTensorTypeAndShapeInfo *info; /* belongs to type_info */
    if (check(policy, api->CastTypeInfoToTensorInfo(type_info, &info)) != 0) return -1;
    if (info == NULL) return fail(policy, "%s is no tensor", tensor->name);
    if (check(policy, api->GetTensorElementType(info, &tensor->type)) != 0) return -1;
    if (check(policy, api->GetDimensionsCount(info, &tensor->rank)) != 0) return -1;
    if (element_size(tensor->type) == 0) return fail(policy, "%s is not float32, uint8 or bool", tensor->name);
    if (tensor->rank > POLICY_MAX_RANK) return fail(policy, "%s has %zu dimensions", tensor->name, tensor->rank);
    if (check(policy, api->GetDimensions(info, tensor->shape, tensor->rank)) != 0) return -1;
    tensor->count = 1;
    for (size_t i = 0; i < tensor->rank; i++) {
        if (tensor->shape[i] < 0) tensor->shape[i] = 1; /* the batch: the only dimension without a size */
        if (tensor->shape[i] == 0 || tensor->shape[i] > INT32_MAX / (int64_t)tensor->count) {
            return fail(policy, "%s has a dimension of %lld", tensor->name, (long long)tensor->shape[i]);
        }
        tensor->count *= (size_t)tensor->shape[i];
    }
    tensor->size = tensor->count * element_size(tensor->type);
    return 0;
}

/* Give a tensor its name, its memory, and onnxruntime a view of that memory. */
static int connect(Policy *policy, Tensor *tensor, OrtValue **value, const char *name, const OrtTypeInfo *type_info) {
    tensor->name = copy_text(name);
    if (tensor->name == NULL) return fail(policy, "out of memory");
    if (describe(policy, tensor, type_info) != 0) return -1;
    tensor->data = calloc(tensor->count, element_size(tensor->type));
    if (tensor->data == NULL) return fail(policy, "out of memory");
    return check(policy, policy->api->CreateTensorWithDataAsOrtValue(policy->memory, tensor->data, tensor->size,
                                                                     tensor->shape, tensor->rank, tensor->type, value));
}

static int prepare(Policy *policy, int is_input, size_t index) {
    const OrtApi *api = policy->api;
    Tensor *tensor = is_input ? &policy->inputs[index] : &policy->outputs[index];
    OrtValue **value = is_input ? &policy->input_values[index] : &policy->output_values[index];
    char *name = NULL;
    OrtTypeInfo *type_info = NULL;
    int result = check(policy, (is_input ? api->SessionGetInputName : api->SessionGetOutputName)(
                                   policy->session, index, policy->allocator, &name));
    if (result == 0) {
        result = check(policy, (is_input ? api->SessionGetInputTypeInfo : api->SessionGetOutputTypeInfo)(
                                   policy->session, index, &type_info));
    }
    if (result == 0) result = connect(policy, tensor, value, name, type_info);
    if (result == 0 && (!is_input || strcmp(name, "episode_start") == 0)) { /* what is read and written as floats is */
        int is_bool = !is_input && strcmp(name, "outside") == 0;
        ONNXTensorElementDataType type = is_bool ? ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        if (tensor->type != type) result = fail(policy, "%s is not %s", name, policy_type_name(type));
    }
    if (type_info != NULL) api->ReleaseTypeInfo(type_info);
    if (name != NULL && check(policy, api->AllocatorFree(policy->allocator, name)) != 0) result = -1;
    (is_input ? policy->input_names : policy->output_names)[index] = tensor->name;
    return result;
}

static int prepare_tensors(Policy *policy) {
    size_t n_inputs, n_outputs;
    if (check(policy, policy->api->SessionGetInputCount(policy->session, &n_inputs)) != 0) return -1;
    if (check(policy, policy->api->SessionGetOutputCount(policy->session, &n_outputs)) != 0) return -1;
    policy->inputs = calloc(n_inputs, sizeof *policy->inputs);
    policy->outputs = calloc(n_outputs, sizeof *policy->outputs);
    policy->input_names = calloc(n_inputs, sizeof *policy->input_names);
    policy->output_names = calloc(n_outputs, sizeof *policy->output_names);
    policy->input_values = calloc(n_inputs, sizeof *policy->input_values);
    policy->output_values = calloc(n_outputs, sizeof *policy->output_values);
    if (policy->inputs == NULL || policy->outputs == NULL || policy->input_names == NULL ||
        policy->output_names == NULL || policy->input_values == NULL || policy->output_values == NULL) {
        return fail(policy, "out of memory");
    }
    policy->n_inputs = n_inputs;
    policy->n_outputs = n_outputs;
    for (size_t i = 0; i < n_inputs; i++) {
        if (prepare(policy, 1, i) != 0) return -1;
    }
    for (size_t i = 0; i < n_outputs; i++) {
        if (prepare(policy, 0, i) != 0) return -1;
    }
    return 0;
}

int policy_load(Policy *policy, const char *path) {
    memset(policy, 0, sizeof *policy);
    const OrtApi *api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (api == NULL) {
        return fail(policy, "onnxruntime %s is older than the header that this program was compiled with",
                    OrtGetApiBase()->GetVersionString());
    }
    policy->api = api;
    if (check(policy, api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "policy", &policy->env)) != 0) return -1;
    if (check(policy, api->CreateSessionOptions(&policy->options)) != 0) return -1;
    /* A policy is small: one thread is the fastest, and leaves the others to the rest of the program. */
    if (check(policy, api->SetIntraOpNumThreads(policy->options, 1)) != 0) return -1;
    if (check(policy, api->CreateSession(policy->env, path, policy->options, &policy->session)) != 0) return -1;
    if (check(policy, api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &policy->memory)) != 0) return -1;
    if (check(policy, api->GetAllocatorWithDefaultOptions(&policy->allocator)) != 0) return -1;
    if (check(policy, api->SessionGetModelMetadata(policy->session, &policy->metadata)) != 0) return -1;
    if (prepare_tensors(policy) != 0) return -1;
    policy_reset(policy);
    return 0;
}

static void free_tensors(const OrtApi *api, Tensor *tensors, OrtValue **values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (values[i] != NULL) api->ReleaseValue(values[i]);
        free(tensors[i].data);
        free(tensors[i].name);
    }
}

void policy_free(Policy *policy) {
    const OrtApi *api = policy->api;
    if (api == NULL) return;
    free_tensors(api, policy->inputs, policy->input_values, policy->n_inputs);
    free_tensors(api, policy->outputs, policy->output_values, policy->n_outputs);
    free(policy->inputs);
    free(policy->outputs);
    free(policy->input_names);
    free(policy->output_names);
    free(policy->input_values);
    free(policy->output_values);
    if (policy->metadata != NULL) api->ReleaseModelMetadata(policy->metadata);
    if (policy->memory != NULL) api->ReleaseMemoryInfo(policy->memory);
    if (policy->session != NULL) api->ReleaseSession(policy->session);
    if (policy->options != NULL) api->ReleaseSessionOptions(policy->options);
    if (policy->env != NULL) api->ReleaseEnv(policy->env);
    memset(policy, 0, sizeof *policy);
}

static Tensor *find(Tensor *tensors, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(tensors[i].name, name) == 0) return &tensors[i];
    }
    return NULL;
}

Tensor *policy_input(const Policy *policy, const char *name) {
    return find(policy->inputs, policy->n_inputs, name);
}

Tensor *policy_output(const Policy *policy, const char *name) {
    return find(policy->outputs, policy->n_outputs, name);
}

char *policy_metadata(Policy *policy, const char *key) {
    const OrtApi *api = policy->api;
    char *value = NULL;
    if (check(policy, api->ModelMetadataLookupCustomMetadataMap(policy->metadata, policy->allocator, key, &value)) != 0 ||
        value == NULL) {
        return NULL;
    }
    char *copy = copy_text(value);
    if (check(policy, api->AllocatorFree(policy->allocator, value)) != 0) {
        free(copy);
        return NULL;
    }
    return copy;
}

void policy_reset(Policy *policy) {
    Tensor *masks = policy_input(policy, "action_masks");
    Tensor *episode_start = policy_input(policy, "episode_start");
    if (masks != NULL) memset(masks->data, 1, masks->size);
    if (episode_start != NULL) *(float *)episode_start->data = 1.0f; /* the graph itself clears h_in and c_in */
}

int policy_run(Policy *policy) {
    return check(policy, policy->api->Run(policy->session, NULL, policy->input_names,
                                          (const OrtValue *const *)policy->input_values, policy->n_inputs,
                                          policy->output_names, policy->n_outputs, policy->output_values));
}

int policy_step(Policy *policy) {
    if (policy_run(policy) != 0) return -1;
    Tensor *episode_start = policy_input(policy, "episode_start");
    if (episode_start == NULL) return 0; /* not recurrent */
    Tensor *h_in = policy_input(policy, "h_in"), *h_out = policy_output(policy, "h_out");
    Tensor *c_in = policy_input(policy, "c_in"), *c_out = policy_output(policy, "c_out");
    if (h_in == NULL || h_out == NULL || c_in == NULL || c_out == NULL || h_in->size != h_out->size ||
        c_in->size != c_out->size) {
        return fail(policy, "a recurrent policy has h_in, c_in, h_out and c_out");
    }
    memcpy(h_in->data, h_out->data, h_in->size);
    memcpy(c_in->data, c_out->data, c_in->size);
    *(float *)episode_start->data = 0.0f;
    return 0;
}
