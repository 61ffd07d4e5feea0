// The program `moraine`: thin subcommands over the headers. Called as `encode` or `xray` it answers
// as that subcommand.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <csignal>
#include <moraine/recipes/run_config.hpp>

#include "arguments.hpp"
#include "commands.hpp"

using namespace program;

namespace {

/// Adds a subcommand when this program holds it, and remembers what to run.
template <class Options>
CLI::App* add(CLI::App& app, const char* name, const char* help, int (*run)(const Options&),
              Options& options, int& status) {
  if (!run) return nullptr;
  CLI::App* sub = app.add_subcommand(name, help);
  sub->callback(
      [run, &options, &status, name] { status = guarded(name, 1, [&] { return run(options); }); });
  return sub;
}

/// Options that long-running commands share.
void add_common(CLI::App* sub, CommonOptions& o) {
  sub->add_option_function<std::uint64_t>(
      "--seed", [&o](std::uint64_t s) { o.seed = s, o.has_seed = true; },
      "Seed of all random numbers");
  sub->add_option("--threads", o.threads, "Threads; by default as many as this process may use")
      ->check(CLI::Range(1, 256));
  sub->add_option("--memory", o.memory, "Most memory for tensors, such as 2G");
  sub->add_option("--device", o.device, "cpu or cuda")->check(CLI::IsMember({"cpu", "cuda"}));
  sub->parse_complete_callback([&o] {
    if (o.threads > 0) moraine::set_threads(o.threads);
  });
}

/// The first option of the words that `app` does not know, or "". What CLI11 says of a misspelled
/// option is that another one is missing.
std::string unknown_option(CLI::App& app, int argc, char** argv) {
  for (int i = 0; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--") break;
    const bool is_long = word.rfind("--", 0) == 0;
    if (!is_long &&
        (word.size() < 2 || word[0] != '-' || !std::isalpha(static_cast<unsigned char>(word[1]))))
      continue;
    const std::size_t equals = word.find('=');
    const std::string name = is_long ? word.substr(0, equals) : word.substr(0, 2);
    const CLI::Option* option = app.get_option_no_throw(name);
    if (!option) return name;
    if (equals == std::string::npos && option->get_items_expected_max() > 0) ++i;  // its value
  }
  return "";
}

/// What to do about it: the nearest option, where one is near.
std::string nearest_option(const CLI::App& app, const std::string& name) {
  if (name == "--set") return "only train has a configuration; ";
  std::string best;
  std::size_t least = name.size() / 3 + 1;  // further away is no misspelling
  for (const CLI::Option* o : app.get_options()) {
    const std::string known = o->get_name();
    const std::size_t d = moraine::edit_distance(name, known);
    if (d < least) least = d, best = known;
  }
  return best.empty() ? "" : "did you mean " + best + "? ";
}

/// The line for arguments that are wrong.
std::string usage_error(CLI::App& app, int argc, char** argv, const std::string& what) {
  const std::string first = argc > 1 ? argv[1] : "";
  CLI::App* sub = nullptr;
  for (CLI::App* s : app.get_subcommands({}))
    if (s->get_name() == first) sub = s;
  if (argc > 1 && !sub && (first.empty() || first[0] != '-'))
    return "moraine: unknown command " + moraine::quoted(first) +
           " -> moraine --help lists what there is";
  const std::string unknown =
      sub ? unknown_option(*sub, argc - 2, argv + 2) : unknown_option(app, argc > 1, argv + 1);
  return (sub ? first : "moraine") + ": " +
         (unknown.empty() ? one_line(what) + " -> "
                          : "unknown option " + moraine::quoted(unknown) + " -> " +
                                nearest_option(sub ? *sub : app, unknown)) +
         (sub ? "moraine " + first + " --help lists the options"
              : "moraine --help lists what there is");
}

int other_main(int argc, char** argv) {
  CLI::App app(
      "moraine: vision foundation models and mixtures of low-rank experts for remote sensing",
      "moraine");
  app.set_version_flag("--version", "moraine " MORAINE_VERSION);
  app.require_subcommand(1);
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::Throw);
  int status = 0;

  InfoOptions info;
  if (CLI::App* s =
          add(app, "info", "What a file holds, whatever its name", run_info, info, status)) {
    s->add_option("file", info.file,
                  "A safetensors, PyTorch, TIFF, PNG, JPEG or JSON file, or a model's folder")
        ->required();
    s->add_option("--select", info.select, "The part of a PyTorch checkpoint: teacher, *");
    s->add_option("--pass-over", info.pass_over, "A Python object that may stand in it")
        ->take_all();
  }
  ConvertCommand convert;
  if (CLI::App* s = add(app, "convert", "Weights into safetensors, and into other names",
                        run_convert, convert, status)) {
    s->add_option("input", convert.input,
                  "A .pth, .pt, .ckpt, .bin or .safetensors file, or a folder")
        ->required();
    s->add_option("output", convert.output, "The safetensors file")->required();
    s->add_option("--to", convert.to, "Whose names: hf, meta (the authors'), timm")
        ->check(CLI::IsMember({"hf", "meta", "timm"}));
    s->add_option("--prefix", convert.prefix, "Only names that begin so, without it");
    s->add_option("--dtype", convert.dtype, "f32, f16 or bf16; by default as stored")
        ->check(CLI::IsMember({"f32", "f16", "bf16"}));
    s->add_option("--select", convert.select, "The part of a PyTorch checkpoint: state_dict, *");
    s->add_option("--drop", convert.drop, "Names to leave out: head.*")->take_all();
    s->add_option("--pass-over", convert.pass_over,
                  "A Python object that may stand in a checkpoint: omegaconf.*")
        ->take_all();
    s->add_option("--heads", convert.heads, "Attention heads, for config.json")
        ->check(CLI::Range(1, 1024));
    s->add_option("--activation", convert.activation, "hidden_act, for config.json");
    s->add_option("--account", convert.account, "What became of every tensor, a JSON file");
    s->add_flag("--no-config", convert.no_config, "Write no config.json beside the output");
    s->add_flag("--verbose", convert.verbose, "Print what became of every tensor");
  }
  TrainOptions train;
  if (CLI::App* s = add(app, "train", "Adapt a model to labelled scenes; again: resume", run_train,
                        train, status)) {
    s->add_option("--config", train.config, "The run, a JSON file")->required();
    s->add_option("--output", train.output, "The folder of the run")->required();
    s->add_option_function<std::vector<std::string>>(
        "--set",
        [&train](std::vector<std::string> all) {
          // A warmup that was asked for stands, wherever on the line train.steps is.
          std::stable_partition(all.begin(), all.end(), [](const std::string& a) {
            return a.rfind("train.warmup=", 0) != 0;
          });
          train.set = std::move(all);
        },
        "Change one field of the configuration: train.lr=1e-3");
    add_common(s, train);
  }
  PredictOptions predict;
  if (CLI::App* s = add(app, "predict", "Draw the map of a scene", run_predict, predict, status)) {
    s->add_option("--model", predict.model, "The folder of a run")->required();
    s->add_option("--input", predict.input, "The scene, a GeoTIFF")->required();
    s->add_option("--output", predict.output, "The map, a GeoTIFF")->required();
    s->add_option("--routing", predict.routing, "Which expert handled which place, a GeoTIFF");
    s->add_option("--preview", predict.preview, "A picture of the map with its legend, PNG");
    s->add_option("--offset", predict.offset,
                  "Added to every stored value first: -1000 for new Sentinel-2");
    s->add_option("--scale", predict.scale, "Then multiplied to give reflectance");
    s->add_option("--nodata", predict.nodata, "Stored value that means no measurement");
    s->add_option("--bands", predict.bands, "Names of the scene's bands: blue,green,red,nir");
    s->add_option("--wavelengths", predict.wavelengths, "Their centres in nm: 490,560,665,833");
    s->add_option("--widths", predict.widths, "Their full widths at half maximum in nm");
    s->add_option("--overlap", predict.overlap, "Pixels that neighbouring windows share")
        ->check(CLI::Range(0, 4096));
    s->add_option("--trunks", predict.trunks, "Folder of the trunks, where they have moved");
    add_common(s, predict);
  }
  EvalOptions eval;
  if (CLI::App* s = add(app, "eval", "Compare a map with labels", run_eval, eval, status)) {
    s->add_option("--prediction", eval.prediction, "The map")->required();
    s->add_option("--labels", eval.labels, "The labels, on the same grid")->required();
    s->add_option("--output", eval.output,
                  "The metrics, a JSON file; without it they are printed only");
    s->add_option("--classes", eval.classes, "A run's configuration, for maps made elsewhere");
    s->add_option("--ignore", eval.ignore, "Further label values that do not count: 0,255");
    add_common(s, eval);
  }
  // For the help text only: both are answered before CLI11 sees them.
  app.add_subcommand("encode", "All hidden states of a foundation model")->prefix_command();
  app.add_subcommand("xray", "Everything that happens in one module: run, diff, list")
      ->prefix_command();
  DemoOptions demo;
  if (CLI::App* s =
          add(app, "demo", "The whole story on scenes made here", run_demo, demo, status)) {
    s->add_option("--output", demo.output, "The folder of the results (out/demo)");
    s->add_flag("--full", demo.full, "Every row of the table");
    s->add_option("--seeds", demo.seeds, "How many seeds")->check(CLI::Range(1, 100));
    s->add_option("--models", demo.models, "Folder of the two trunks");
    s->add_option("--steps", demo.steps, "Training steps of every method")
        ->check(CLI::Range(1, 100000));
    s->add_option("--size", demo.size, "Side of the large scene, pixels")
        ->check(CLI::Range(128, 32768));
    add_common(s, demo);
  }
  PretrainOptions pretrain;
  if (CLI::App* s = add(app, "pretrain", "Train the small foundation models of the demo",
                        run_pretrain, pretrain, status)) {
    s->add_option("--trunk", pretrain.trunk, "vision or depth")
        ->required()
        ->check(CLI::IsMember({"vision", "depth"}));
    s->add_option("--output", pretrain.output, "The folder of the models")->required();
    s->add_option("--steps", pretrain.steps, "Steps of the whole run")
        ->check(CLI::Range(1, 10000000));
    add_common(s, pretrain);
  }
  PrepareOptions prepare;
  if (CLI::App* s = add(app, "prepare", "Photographs as a model wants them: what encode reads",
                        run_prepare, prepare, status)) {
    s->add_option("--model", prepare.model, "The model's folder: config.json, perhaps a processor's")
        ->required();
    s->add_option("--image", prepare.images, "A PNG, JPEG or TIFF file; several: one batch")
        ->required()
        ->take_all();
    s->add_option("--output", prepare.output, "The safetensors file that encode reads")->required();
    s->add_option("--size", prepare.size, "518 or 518x777 (height first) instead of the model's");
    s->add_option("--backend", prepare.backend,
                  "Whose rounding: torchvision, as AutoImageProcessor (the default), or pil")
        ->check(CLI::IsMember({"torchvision", "pil"}));
    s->add_option("--prompt-depth", prepare.prompt_depth,
                  "Depth for prompt_depth_anything, a PNG or TIFF in millimetres");
    s->add_option("--wavelengths", prepare.wavelengths,
                  "Of the three colours for dofa, micrometres (0.665,0.56,0.49)");
  }
  DoctorOptions doctor;
  add(app, "doctor", "What is here, what is missing, and what installs it", run_doctor, doctor,
      status);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help, --version
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    std::fprintf(stderr, "%s\n", usage_error(app, argc, argv, e.what()).c_str());
    return 1;
  }
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a full quota is an error of a write, not a signal
  const std::string name = argc > 0 ? moraine::base_name(argv[0]) : "moraine";
  if (name == "encode") return encode_main(argc - 1, argv + 1);
  if (name == "xray") return xray_main(argc - 1, argv + 1);
  const std::string first = argc > 1 ? argv[1] : "";
  if (first == "encode") return encode_main(argc - 2, argv + 2);
  if (first == "xray") return xray_main(argc - 2, argv + 2);
  return other_main(argc, argv);
}
