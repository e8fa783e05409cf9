/* Prove a policy file on this machine: give it the inputs of NAME.vectors.json, and compare what comes out. */
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "policy.h"

enum { VECTORS_VERSION = 1 };

static int complain(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "error: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    return -1;
}

static const char *text_at(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text == NULL ? "" : text;
}

/* The vectors must have been written for this very file. */
static int check_digest(Policy *policy, const json_t *vectors) {
    char *text = policy_metadata(policy, "sb3_clanker");
    json_t *record = text == NULL ? NULL : json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    const char *wanted = text_at(vectors, "digest");
    int same = *wanted != '\0' && strcmp(text_at(record, "digest"), wanted) == 0;
    json_decref(record);
    return same ? 0 : complain("the vectors were written for another file, whose digest is %s", wanted);
}

/* The vectors must name the inputs or outputs of the graph, in its order. */
static int check_tensors(const char *what, const json_t *specs, const Tensor *tensors, size_t count) {
    if (!json_is_array(specs) || json_array_size(specs) != count) {
        return complain("the vectors do not have the %zu %s of the file", count, what);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *spec = json_array_get(specs, i), *shape = json_object_get(spec, "shape");
        const json_t *type = json_object_get(spec, "dtype"); /* outputs have none: they are compared as numbers */
        int same = strcmp(text_at(spec, "name"), tensors[i].name) == 0 &&
                   (type == NULL || strcmp(text_at(spec, "dtype"), policy_type_name(tensors[i].type)) == 0) &&
                   json_array_size(shape) == tensors[i].rank;
        for (size_t j = 0; same && j < tensors[i].rank; j++) {
            same = json_integer_value(json_array_get(shape, j)) == tensors[i].shape[j];
        }
        if (!same) return complain("the vectors do not describe %s as the file does", tensors[i].name);
    }
    return 0;
}

/* Write the values of one input into its memory. */
static int set_input(const Tensor *input, const json_t *values) {
    if (!json_is_array(values) || json_array_size(values) != input->count) {
        return complain("the vectors do not have the %zu values of %s", input->count, input->name);
    }
    for (size_t i = 0; i < input->count; i++) {
        const json_t *value = json_array_get(values, i);
        int is_bool = input->type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
        if (is_bool ? !json_is_boolean(value) : !json_is_number(value)) {
            return complain("value %zu of %s is not %s", i, input->name, policy_type_name(input->type));
        }
        double number = json_number_value(value);
        if (is_bool) {
            ((unsigned char *)input->data)[i] = json_is_true(value);
        } else if (input->type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
            ((float *)input->data)[i] = (float)number;
        } else if (number >= 0.0 && number <= 255.0 && number == floor(number)) {
            ((uint8_t *)input->data)[i] = (uint8_t)number;
        } else {
            return complain("value %zu of %s is not uint8", i, input->name);
        }
    }
    return 0;
}

/* Compare one output with what is expected, and keep the largest difference. */
static int compare(size_t number, const Tensor *output, const json_t *spec, const json_t *values, double *largest) {
    const json_t *atol = json_object_get(spec, "atol");
    double rtol = json_number_value(json_object_get(spec, "rtol"));
    if (json_array_size(values) != output->count || json_array_size(atol) != output->count) {
        return complain("the vectors do not have the %zu values of %s", output->count, output->name);
    }
    for (size_t i = 0; i < output->count; i++) {
        if (!json_is_number(json_array_get(values, i)) || !json_is_number(json_array_get(atol, i))) {
            return complain("value %zu of %s is no number", i, output->name);
        }
        int is_bool = output->type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL; /* of which true is expected as 1 */
        double got = is_bool ? ((const uint8_t *)output->data)[i] : ((const float *)output->data)[i];
        double expected = json_number_value(json_array_get(values, i));
        double difference = fabs(got - expected);
        double allowed = json_number_value(json_array_get(atol, i)) + rtol * fabs(expected);
        if (!(difference <= allowed)) { /* written so that NaN fails */
            return complain("in case %zu, %s[%zu] is %.9g, expected %.9g", number, output->name, i, got, expected);
        }
        *largest = fmax(*largest, difference);
    }
    return 0;
}

static int check_vectors(Policy *policy, const json_t *vectors) {
    if (json_integer_value(json_object_get(vectors, "format_version")) != VECTORS_VERSION) {
        return complain("format_version is not %d", VECTORS_VERSION);
    }
    const json_t *inputs = json_object_get(vectors, "inputs"), *outputs = json_object_get(vectors, "outputs");
    const json_t *cases = json_object_get(vectors, "cases");
    if (check_digest(policy, vectors) != 0 || check_tensors("inputs", inputs, policy->inputs, policy->n_inputs) != 0 ||
        check_tensors("outputs", outputs, policy->outputs, policy->n_outputs) != 0) {
        return -1;
    }
    size_t n_cases = json_array_size(cases);
    if (n_cases == 0) return complain("the vectors have no cases");
    double largest = 0.0;
    for (size_t number = 0; number < n_cases; number++) {
        const json_t *given = json_object_get(json_array_get(cases, number), "inputs");
        const json_t *expected = json_object_get(json_array_get(cases, number), "outputs");
        for (size_t i = 0; i < policy->n_inputs; i++) {
            if (set_input(&policy->inputs[i], json_object_get(given, policy->inputs[i].name)) != 0) return -1;
        }
        if (policy_run(policy) != 0) return complain("%s", policy->error);
        for (size_t i = 0; i < policy->n_outputs; i++) {
            const json_t *values = json_object_get(expected, policy->outputs[i].name);
            if (compare(number, &policy->outputs[i], json_array_get(outputs, i), values, &largest) != 0) return -1;
        }
    }
    printf("%zu cases, largest difference %.3g\n", n_cases, largest);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s POLICY.onnx POLICY.vectors.json\n", argv[0]);
        return 2;
    }
    json_error_t error;
    json_t *vectors = json_load_file(argv[2], JSON_REJECT_DUPLICATES, &error);
    if (vectors == NULL) {
        complain("%s: %s", argv[2], error.text);
        return 1;
    }
    Policy policy;
    int result = policy_load(&policy, argv[1]);
    result = result == 0 ? check_vectors(&policy, vectors) : complain("%s", policy.error);
    policy_free(&policy);
    json_decref(vectors);
    return result == 0 ? 0 : 1;
}
