// The part of onnxruntime's C interface that this library calls.
//
// onnxruntime's wheels ship no headers (microsoft/onnxruntime#18840), and a build that needs a
// separate download is one that fails. The C interface only ever grows at its end: functions keep
// their place in the table, and a program asks for the version it was written for. So the few
// functions that are needed are declared here by place. With SURGERY_ONNXRUNTIME_HEADERS defined
// (CMake: -DSURGERY_ONNXRUNTIME_INCLUDE_DIR=...) the official header is used instead, and the
// assertions at the end of this file compare the two.
//
// Source: include/onnxruntime/core/session/onnxruntime_c_api.h of onnxruntime, API versions 17 and
// later: struct OrtApiBase, struct OrtApi, struct OrtCustomOp and the enumerations they use.

#ifndef RIFE_ONNXRUNTIME_ABI_H_
#define RIFE_ONNXRUNTIME_ABI_H_

#include <cstddef>
#include <cstdint>

#ifdef SURGERY_ONNXRUNTIME_HEADERS
#include <onnxruntime_c_api.h>
#else

#ifdef _WIN32
#define ORT_API_CALL __stdcall
#else
#define ORT_API_CALL
#endif

struct OrtStatus;
struct OrtSessionOptions;
struct OrtValue;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtCustomOpDomain;
struct OrtTensorTypeAndShapeInfo;
struct OrtShapeInferContext;
struct OrtCustomOp;
struct OrtApi;

enum OrtErrorCode { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2, ORT_NOT_IMPLEMENTED = 9 };
enum ONNXTensorElementDataType { ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1 };
enum OrtCustomOpInputOutputCharacteristic { INPUT_OUTPUT_REQUIRED = 0 };
enum OrtMemType { OrtMemTypeDefault = 0 };

struct OrtApiBase {
  const OrtApi*(ORT_API_CALL* GetApi)(std::uint32_t version);
  const char*(ORT_API_CALL* GetVersionString)();
};

// `unused_A_B` stands for the functions in places A to B.
struct OrtApi {
  OrtStatus*(ORT_API_CALL* CreateStatus)(OrtErrorCode code, const char* message);
  void* unused_1_25[25];
  OrtStatus*(ORT_API_CALL* CreateCustomOpDomain)(const char* name, OrtCustomOpDomain** domain);
  OrtStatus*(ORT_API_CALL* CustomOpDomain_Add)(OrtCustomOpDomain* domain, const OrtCustomOp* op);
  OrtStatus*(ORT_API_CALL* AddCustomOpDomain)(OrtSessionOptions* options,
                                              OrtCustomOpDomain* domain);
  void* unused_29_50[22];
  OrtStatus*(ORT_API_CALL* GetTensorMutableData)(OrtValue* value, void** data);
  void* unused_52_60[9];
  OrtStatus*(ORT_API_CALL* GetDimensionsCount)(const OrtTensorTypeAndShapeInfo* info,
                                               std::size_t* rank);
  OrtStatus*(ORT_API_CALL* GetDimensions)(const OrtTensorTypeAndShapeInfo* info,
                                          std::int64_t* dims, std::size_t rank);
  OrtStatus*(ORT_API_CALL* GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo* info,
                                                  const char** names, std::size_t rank);
  void* unused_64;
  OrtStatus*(ORT_API_CALL* GetTensorTypeAndShape)(const OrtValue* value,
                                                  OrtTensorTypeAndShapeInfo** info);
  void* unused_66_89[24];
  OrtStatus*(ORT_API_CALL* KernelContext_GetInput)(const OrtKernelContext* context,
                                                   std::size_t index, const OrtValue** value);
  OrtStatus*(ORT_API_CALL* KernelContext_GetOutput)(OrtKernelContext* context, std::size_t index,
                                                    const std::int64_t* dims, std::size_t rank,
                                                    OrtValue** value);
  void* unused_92[1];
  void(ORT_API_CALL* ReleaseStatus)(OrtStatus* status);
  void* unused_94_98[5];
  void(ORT_API_CALL* ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo* info);
  void* unused_100;
  void(ORT_API_CALL* ReleaseCustomOpDomain)(OrtCustomOpDomain* domain);
  void* unused_102_267[166];
  OrtStatus*(ORT_API_CALL* ShapeInferContext_GetInputTypeShape)(
      const OrtShapeInferContext* context, std::size_t index, OrtTensorTypeAndShapeInfo** info);
  void* unused_269;
  OrtStatus*(ORT_API_CALL* ShapeInferContext_SetOutputTypeShape)(
      const OrtShapeInferContext* context, std::size_t index,
      const OrtTensorTypeAndShapeInfo* info);
  void* unused_271_273[3];
  OrtStatus*(ORT_API_CALL* KernelContext_ParallelFor)(const OrtKernelContext* context,
                                                      void (*function)(void* data,
                                                                       std::size_t index),
                                                      std::size_t total, std::size_t batches,
                                                      void* data);
};

// As of API version 17; later versions add members at the end.
struct OrtCustomOp {
  std::uint32_t version;
  void*(ORT_API_CALL* CreateKernel)(const OrtCustomOp* op, const OrtApi* api,
                                    const OrtKernelInfo* info);
  const char*(ORT_API_CALL* GetName)(const OrtCustomOp* op);
  const char*(ORT_API_CALL* GetExecutionProviderType)(const OrtCustomOp* op);
  ONNXTensorElementDataType(ORT_API_CALL* GetInputType)(const OrtCustomOp* op, std::size_t index);
  std::size_t(ORT_API_CALL* GetInputTypeCount)(const OrtCustomOp* op);
  ONNXTensorElementDataType(ORT_API_CALL* GetOutputType)(const OrtCustomOp* op, std::size_t index);
  std::size_t(ORT_API_CALL* GetOutputTypeCount)(const OrtCustomOp* op);
  void(ORT_API_CALL* KernelCompute)(void* kernel, OrtKernelContext* context);
  void(ORT_API_CALL* KernelDestroy)(void* kernel);
  OrtCustomOpInputOutputCharacteristic(ORT_API_CALL* GetInputCharacteristic)(const OrtCustomOp* op,
                                                                             std::size_t index);
  OrtCustomOpInputOutputCharacteristic(ORT_API_CALL* GetOutputCharacteristic)(
      const OrtCustomOp* op, std::size_t index);
  OrtMemType(ORT_API_CALL* GetInputMemoryType)(const OrtCustomOp* op, std::size_t index);
  int(ORT_API_CALL* GetVariadicInputMinArity)(const OrtCustomOp* op);
  int(ORT_API_CALL* GetVariadicInputHomogeneity)(const OrtCustomOp* op);
  int(ORT_API_CALL* GetVariadicOutputMinArity)(const OrtCustomOp* op);
  int(ORT_API_CALL* GetVariadicOutputHomogeneity)(const OrtCustomOp* op);
  OrtStatus*(ORT_API_CALL* CreateKernelV2)(const OrtCustomOp* op, const OrtApi* api,
                                           const OrtKernelInfo* info, void** kernel);
  OrtStatus*(ORT_API_CALL* KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus*(ORT_API_CALL* InferOutputShapeFn)(const OrtCustomOp* op,
                                               OrtShapeInferContext* context);
  int(ORT_API_CALL* GetStartVersion)(const OrtCustomOp* op);
  int(ORT_API_CALL* GetEndVersion)(const OrtCustomOp* op);
};

#endif  // SURGERY_ONNXRUNTIME_HEADERS

// The first version with KernelContext_ParallelFor and custom shape inference (onnxruntime 1.17).
constexpr std::uint32_t kOrtApiVersion = 17;

// Checked against whichever declarations are in use.
#define RIFE_EXPECT_PLACE(type, function, place)                        \
  static_assert(offsetof(type, function) == (place) * sizeof(void*),    \
                #type "::" #function " is not where onnxruntime's table has it")

RIFE_EXPECT_PLACE(OrtApiBase, GetApi, 0);
RIFE_EXPECT_PLACE(OrtApiBase, GetVersionString, 1);
RIFE_EXPECT_PLACE(OrtApi, CreateStatus, 0);
RIFE_EXPECT_PLACE(OrtApi, CreateCustomOpDomain, 26);
RIFE_EXPECT_PLACE(OrtApi, CustomOpDomain_Add, 27);
RIFE_EXPECT_PLACE(OrtApi, AddCustomOpDomain, 28);
RIFE_EXPECT_PLACE(OrtApi, GetTensorMutableData, 51);
RIFE_EXPECT_PLACE(OrtApi, GetDimensionsCount, 61);
RIFE_EXPECT_PLACE(OrtApi, GetDimensions, 62);
RIFE_EXPECT_PLACE(OrtApi, GetSymbolicDimensions, 63);
RIFE_EXPECT_PLACE(OrtApi, GetTensorTypeAndShape, 65);
RIFE_EXPECT_PLACE(OrtApi, KernelContext_GetInput, 90);
RIFE_EXPECT_PLACE(OrtApi, KernelContext_GetOutput, 91);
RIFE_EXPECT_PLACE(OrtApi, ReleaseStatus, 93);
RIFE_EXPECT_PLACE(OrtApi, ReleaseTensorTypeAndShapeInfo, 99);
RIFE_EXPECT_PLACE(OrtApi, ReleaseCustomOpDomain, 101);
RIFE_EXPECT_PLACE(OrtApi, ShapeInferContext_GetInputTypeShape, 268);
RIFE_EXPECT_PLACE(OrtApi, ShapeInferContext_SetOutputTypeShape, 270);
RIFE_EXPECT_PLACE(OrtApi, KernelContext_ParallelFor, 274);
RIFE_EXPECT_PLACE(OrtCustomOp, CreateKernel, 1);
RIFE_EXPECT_PLACE(OrtCustomOp, GetName, 2);
RIFE_EXPECT_PLACE(OrtCustomOp, GetExecutionProviderType, 3);
RIFE_EXPECT_PLACE(OrtCustomOp, GetInputType, 4);
RIFE_EXPECT_PLACE(OrtCustomOp, GetInputTypeCount, 5);
RIFE_EXPECT_PLACE(OrtCustomOp, GetOutputType, 6);
RIFE_EXPECT_PLACE(OrtCustomOp, GetOutputTypeCount, 7);
RIFE_EXPECT_PLACE(OrtCustomOp, KernelDestroy, 9);
RIFE_EXPECT_PLACE(OrtCustomOp, GetInputCharacteristic, 10);
RIFE_EXPECT_PLACE(OrtCustomOp, GetOutputCharacteristic, 11);
RIFE_EXPECT_PLACE(OrtCustomOp, GetInputMemoryType, 12);
RIFE_EXPECT_PLACE(OrtCustomOp, CreateKernelV2, 17);
RIFE_EXPECT_PLACE(OrtCustomOp, KernelComputeV2, 18);
RIFE_EXPECT_PLACE(OrtCustomOp, InferOutputShapeFn, 19);
RIFE_EXPECT_PLACE(OrtCustomOp, GetStartVersion, 20);
RIFE_EXPECT_PLACE(OrtCustomOp, GetEndVersion, 21);

#undef RIFE_EXPECT_PLACE

#endif  // RIFE_ONNXRUNTIME_ABI_H_
