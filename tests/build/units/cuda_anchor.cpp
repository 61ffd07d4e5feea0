// One reference keeps a shared library that holds only the backend, also under --as-needed.
extern "C" int moraine_cuda_backend;
int* const anchor = &moraine_cuda_backend;
