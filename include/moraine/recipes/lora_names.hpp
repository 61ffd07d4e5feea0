#pragma once
// What other libraries call the layers that our slots are: the table by which LoRA travels
// (recipes/lora_files.hpp).
#include <moraine/core/config.hpp>

namespace moraine MORAINE_API {

/// Which modules elsewhere a slot of ours is; several, joined by '|', where its rows are theirs one
/// after the other. {i} is the number of the block.
struct LoraName {
  const char* names;  ///< whose: the argument of collect_lora
  const char *slot, *modules;
};
inline constexpr LoraName lora_names[] = {
    {"trunk", "blocks.{i}.attn.qkv", "blocks.{i}.attn.qkv"},
    {"trunk", "blocks.{i}.attn.proj", "blocks.{i}.attn.proj"},
    {"trunk", "blocks.{i}.mlp.fc1", "blocks.{i}.mlp.fc1"},
    {"trunk", "blocks.{i}.mlp.fc2", "blocks.{i}.mlp.fc2"},
    {"trunk", "blocks.{i}.mlp.w12", "blocks.{i}.mlp.w12"},
    {"trunk", "blocks.{i}.mlp.w3", "blocks.{i}.mlp.w3"},
    // transformers 5 names its modules so; its files keep the names of version 4, next.
    {"dinov2", "blocks.{i}.attn.qkv",
     "encoder.layer.{i}.attention.q_proj|encoder.layer.{i}.attention.k_proj|"
     "encoder.layer.{i}.attention.v_proj"},
    {"dinov2", "blocks.{i}.attn.proj", "encoder.layer.{i}.attention.o_proj"},
    {"dinov2", "blocks.{i}.mlp.fc1", "encoder.layer.{i}.mlp.fc1"},
    {"dinov2", "blocks.{i}.mlp.fc2", "encoder.layer.{i}.mlp.fc2"},
    {"dinov2", "blocks.{i}.mlp.w12",
     "encoder.layer.{i}.mlp.gate_proj|encoder.layer.{i}.mlp.up_proj"},
    {"dinov2", "blocks.{i}.mlp.w3", "encoder.layer.{i}.mlp.down_proj"},
    {"dinov2_transformers4", "blocks.{i}.attn.qkv",
     "encoder.layer.{i}.attention.attention.query|encoder.layer.{i}.attention.attention.key|"
     "encoder.layer.{i}.attention.attention.value"},
    {"dinov2_transformers4", "blocks.{i}.attn.proj", "encoder.layer.{i}.attention.output.dense"},
    {"dinov2_transformers4", "blocks.{i}.mlp.fc1", "encoder.layer.{i}.mlp.fc1"},
    {"dinov2_transformers4", "blocks.{i}.mlp.fc2", "encoder.layer.{i}.mlp.fc2"},
    {"dinov2_transformers4", "blocks.{i}.mlp.w12", "encoder.layer.{i}.mlp.weights_in"},
    {"dinov2_transformers4", "blocks.{i}.mlp.w3", "encoder.layer.{i}.mlp.weights_out"},
    {"dinov3", "blocks.{i}.attn.qkv",
     "layer.{i}.attention.q_proj|layer.{i}.attention.k_proj|layer.{i}.attention.v_proj"},
    {"dinov3", "blocks.{i}.attn.proj", "layer.{i}.attention.o_proj"},
    {"dinov3", "blocks.{i}.mlp.fc1", "layer.{i}.mlp.up_proj"},
    {"dinov3", "blocks.{i}.mlp.fc2", "layer.{i}.mlp.down_proj"},
    {"dinov3", "blocks.{i}.mlp.w12", "layer.{i}.mlp.gate_proj|layer.{i}.mlp.up_proj"},
    {"dinov3", "blocks.{i}.mlp.w3", "layer.{i}.mlp.down_proj"},
    {"clip", "blocks.{i}.attn.qkv",
     "encoder.layers.{i}.self_attn.q_proj|encoder.layers.{i}.self_attn.k_proj|"
     "encoder.layers.{i}.self_attn.v_proj"},
    {"clip", "blocks.{i}.attn.proj", "encoder.layers.{i}.self_attn.out_proj"},
    {"clip", "blocks.{i}.mlp.fc1", "encoder.layers.{i}.mlp.fc1"},
    {"clip", "blocks.{i}.mlp.fc2", "encoder.layers.{i}.mlp.fc2"},
    {"sam", "blocks.{i}.attn.qkv", "layers.{i}.attn.qkv"},
    {"sam", "blocks.{i}.attn.proj", "layers.{i}.attn.proj"},
    {"sam", "blocks.{i}.mlp.lin1", "layers.{i}.mlp.lin1"},
    {"sam", "blocks.{i}.mlp.lin2", "layers.{i}.mlp.lin2"},
    {"sam", "blocks.{i}.mlp.fc1", "layers.{i}.mlp.lin1"},
    {"sam", "blocks.{i}.mlp.fc2", "layers.{i}.mlp.lin2"},
    {"eva02", "blocks.{i}.attn.qkv",
     "blocks.{i}.attn.q_proj|blocks.{i}.attn.k_proj|blocks.{i}.attn.v_proj"},
    {"eva02", "blocks.{i}.attn.proj", "blocks.{i}.attn.proj"},
    {"eva02", "blocks.{i}.mlp.w12", "blocks.{i}.mlp.fc1_g|blocks.{i}.mlp.fc1_x"},
    {"eva02", "blocks.{i}.mlp.w3", "blocks.{i}.mlp.fc2"},
    {"timm", "blocks.{i}.mlp.w12", "blocks.{i}.mlp.fc1"},
    {"timm", "blocks.{i}.mlp.w3", "blocks.{i}.mlp.fc2"}};

}  // namespace moraine
