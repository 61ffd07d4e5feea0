#pragma once
// The subcommands of `moraine`. A subcommand is a function of its options, in a file of its name;
// main.cpp turns arguments into options.
#include <cstdint>
#include <string>
#include <vector>

namespace program {

// ---- encode and xray read their arguments themselves, as their contracts say.
struct EncodeOptions {
  std::string model, input, output;
  bool bf16 = false;
};
/// Throws Error.
void run_encode(const EncodeOptions& options);
/// The words after the program's or subcommand's name; the exit status.
int encode_main(int argc, char** argv);
int xray_main(int argc, char** argv);

// ---- the others: exit status 1 and one line when they throw Error.
struct InfoOptions {
  std::string file, select;
  std::vector<std::string> pass_over;
};
int run_info(const InfoOptions& options);

struct ConvertCommand {
  std::string input, output, to, prefix, dtype, select, account, activation;
  std::vector<std::string> drop, pass_over;
  long long heads = 0;
  bool no_config = false, verbose = false;
};
int run_convert(const ConvertCommand& options);

struct DoctorOptions {};
int run_doctor(const DoctorOptions& options);

/// What the commands below share.
struct CommonOptions {
  std::uint64_t seed = 0;
  bool has_seed = false;
  int threads = 0;     ///< 0: as many as this process may use
  std::string memory;  ///< "2G"; empty: no limit
  std::string device = "cpu";
};
struct TrainOptions : CommonOptions {
  std::string config, output;
  std::vector<std::string> set;  ///< "train.lr=1e-3", over the configuration file
};
struct PredictOptions : CommonOptions {
  std::string model, input, output, routing, preview, trunks;
  std::string bands, wavelengths, widths;  ///< of the scene, "a,b,c"
  std::string offset, scale, nodata;       ///< numbers; empty: as the file or the model says
  long long overlap = -1;                  ///< pixels; -1: a quarter of the window
};
struct EvalOptions : CommonOptions {
  std::string prediction, labels, classes, ignore;
  std::string output;  ///< empty: the metrics are printed only
};
struct DemoOptions : CommonOptions {
  std::string output = "out/demo";
  std::string models;  ///< folder of the trunks; empty: those of the project
  bool full = false;
  int seeds = 1;
  long long steps = 0;    ///< 0: those of the recipe
  long long size = 4096;  ///< of the large scene, pixels a side
};
struct PretrainOptions : CommonOptions {
  std::string trunk, output;
  long long steps = 10000;
};
struct PrepareOptions {
  std::string model, output;
  std::vector<std::string> images;
  std::string size;     ///< "518" or "518x777"; empty: the processor's own
  std::string backend;  ///< "torchvision" or "pil"
  std::string prompt_depth, wavelengths;
};

// Weak: the program has the subcommand when a file in this folder defines the function.
[[gnu::weak]] int run_train(const TrainOptions& options);
[[gnu::weak]] int run_predict(const PredictOptions& options);
[[gnu::weak]] int run_eval(const EvalOptions& options);
[[gnu::weak]] int run_demo(const DemoOptions& options);
[[gnu::weak]] int run_prepare(const PrepareOptions& options);
[[gnu::weak]] int run_pretrain(const PretrainOptions& options);

}  // namespace program
