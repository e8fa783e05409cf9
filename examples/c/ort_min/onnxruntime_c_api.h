/* A stand-in for onnxruntime's own onnxruntime_c_api.h, for machines that have the library and not the header.
 *
 * onnxruntime hands its functions out as one table of pointers, whose order never changes. This file declares the few
 * that the programs here call, each at its place in the table, and leaves the rest unnamed. It was written by hand, for
 * version 2 of the table, the first one with metadata; every later library still has it. Take the official header
 * where you can: it stands for all of the table, and nothing else in these programs changes.
 */
#ifndef ORT_MIN_H
#define ORT_MIN_H

#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 2

typedef struct OrtAllocator OrtAllocator;
typedef struct OrtEnv OrtEnv;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtModelMetadata OrtModelMetadata;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtStatus OrtStatus;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtTypeInfo OrtTypeInfo;
typedef struct OrtValue OrtValue;

typedef enum { ORT_LOGGING_LEVEL_ERROR = 3 } OrtLoggingLevel;
typedef enum { OrtArenaAllocator = 1 } OrtAllocatorType;
typedef enum { OrtMemTypeDefault = 0 } OrtMemType;
typedef enum {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL = 9
} ONNXTensorElementDataType;

typedef void (*OrtUnused)(void);

typedef struct OrtApi {
    OrtUnused unused_0[2];
    const char *(*GetErrorMessage)(const OrtStatus *);                                   /* 2 */
    OrtStatus *(*CreateEnv)(OrtLoggingLevel, const char *name, OrtEnv **);               /* 3 */
    OrtUnused unused_4[3];
    OrtStatus *(*CreateSession)(const OrtEnv *, const char *path, const OrtSessionOptions *, OrtSession **); /* 7 */
    OrtUnused unused_8[1];
    OrtStatus *(*Run)(OrtSession *, const OrtRunOptions *, const char *const *input_names, const OrtValue *const *inputs,
                      size_t n_inputs, const char *const *output_names, size_t n_outputs, OrtValue **outputs); /* 9 */
    OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **);                            /* 10 */
    OrtUnused unused_11[13];
    OrtStatus *(*SetIntraOpNumThreads)(OrtSessionOptions *, int n_threads);              /* 24 */
    OrtUnused unused_25[5];
    OrtStatus *(*SessionGetInputCount)(const OrtSession *, size_t *);                    /* 30 */
    OrtStatus *(*SessionGetOutputCount)(const OrtSession *, size_t *);                   /* 31 */
    OrtUnused unused_32[1];
    OrtStatus *(*SessionGetInputTypeInfo)(const OrtSession *, size_t index, OrtTypeInfo **);  /* 33 */
    OrtStatus *(*SessionGetOutputTypeInfo)(const OrtSession *, size_t index, OrtTypeInfo **); /* 34 */
    OrtUnused unused_35[1];
    OrtStatus *(*SessionGetInputName)(const OrtSession *, size_t index, OrtAllocator *, char **);  /* 36 */
    OrtStatus *(*SessionGetOutputName)(const OrtSession *, size_t index, OrtAllocator *, char **); /* 37 */
    OrtUnused unused_38[11];
    OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *data, size_t size, const int64_t *shape,
                                                 size_t rank, ONNXTensorElementDataType, OrtValue **); /* 49 */
    OrtUnused unused_50[5];
    OrtStatus *(*CastTypeInfoToTensorInfo)(const OrtTypeInfo *, const OrtTensorTypeAndShapeInfo **);   /* 55 */
    OrtUnused unused_56[4];
    OrtStatus *(*GetTensorElementType)(const OrtTensorTypeAndShapeInfo *, ONNXTensorElementDataType *); /* 60 */
    OrtStatus *(*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo *, size_t *);                     /* 61 */
    OrtStatus *(*GetDimensions)(const OrtTensorTypeAndShapeInfo *, int64_t *shape, size_t rank);       /* 62 */
    OrtUnused unused_63[6];
    OrtStatus *(*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo **);   /* 69 */
    OrtUnused unused_70[6];
    OrtStatus *(*AllocatorFree)(OrtAllocator *, void *);                                 /* 76 */
    OrtUnused unused_77[1];
    OrtStatus *(*GetAllocatorWithDefaultOptions)(OrtAllocator **);                       /* 78 */
    OrtUnused unused_79[13];
    void (*ReleaseEnv)(OrtEnv *);                                                        /* 92 */
    void (*ReleaseStatus)(OrtStatus *);                                                  /* 93 */
    void (*ReleaseMemoryInfo)(OrtMemoryInfo *);                                          /* 94 */
    void (*ReleaseSession)(OrtSession *);                                                /* 95 */
    void (*ReleaseValue)(OrtValue *);                                                    /* 96 */
    OrtUnused unused_97[1];
    void (*ReleaseTypeInfo)(OrtTypeInfo *);                                              /* 98 */
    OrtUnused unused_99[1];
    void (*ReleaseSessionOptions)(OrtSessionOptions *);                                  /* 100 */
    OrtUnused unused_101[10];
    OrtStatus *(*SessionGetModelMetadata)(const OrtSession *, OrtModelMetadata **);      /* 111 */
    OrtUnused unused_112[4];
    OrtStatus *(*ModelMetadataLookupCustomMetadataMap)(const OrtModelMetadata *, OrtAllocator *, const char *key,
                                                       char **value);                    /* 116 */
    OrtUnused unused_117[1];
    void (*ReleaseModelMetadata)(OrtModelMetadata *);                                    /* 118 */
} OrtApi;

/* The arithmetic above, checked by the compiler. */
#define ORT_AT(function, slot) \
    _Static_assert(offsetof(OrtApi, function) == (slot) * sizeof(OrtUnused), #function " is not in its slot")
ORT_AT(CreateSession, 7);
ORT_AT(SetIntraOpNumThreads, 24);
ORT_AT(SessionGetOutputName, 37);
ORT_AT(CreateTensorWithDataAsOrtValue, 49);
ORT_AT(CreateCpuMemoryInfo, 69);
ORT_AT(ReleaseEnv, 92);
ORT_AT(ReleaseSessionOptions, 100);
ORT_AT(ReleaseModelMetadata, 118);

typedef struct {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

const OrtApiBase *OrtGetApiBase(void);

#endif
