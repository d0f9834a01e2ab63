"""Small Hugging Face model folders, made of struct and json alone: names and shapes as transformers
writes them, values random bits.
"""

import json
import pathlib
import random
import struct

WIDTH = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8, "I32": 4}
TORCH_NAME = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

JAMBA = {
    "model_type": "jamba", "architectures": ["JambaForCausalLM"], "vocab_size": 40, "hidden_size": 16,
    "intermediate_size": 12, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "attn_layer_period": 4, "attn_layer_offset": 2, "expert_layer_period": 2, "expert_layer_offset": 1,
    "num_experts": 3, "num_experts_per_tok": 2, "mamba_d_state": 4, "mamba_d_conv": 4, "mamba_expand": 2,
    "mamba_dt_rank": 3, "mamba_conv_bias": True, "mamba_proj_bias": False, "hidden_act": "silu",
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 40, "hidden_size": 16,
    "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "bos_token_id": 1,
    "eos_token_id": 2, "rope_theta": 10000.0, "max_position_embeddings": 64,
}


def shapes_of(config):
    """Tensor name -> shape, experts one by one."""
    h, i, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = h // config["num_attention_heads"] * config["num_key_value_heads"]
    is_jamba = config["model_type"] == "jamba"
    shapes = {"model.embed_tokens.weight": [v, h],
              "model.final_layernorm.weight" if is_jamba else "model.norm.weight": [h]}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [v, h]
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        shapes[p + "input_layernorm.weight"] = [h]
        shapes[p + ("pre_ff_layernorm" if is_jamba else "post_attention_layernorm") + ".weight"] = [h]
        attends = not is_jamba or layer % config["attn_layer_period"] == config["attn_layer_offset"]
        if attends:
            for kind, shape in {"q": [h, h], "k": [kv, h], "v": [kv, h], "o": [h, h]}.items():
                shapes[f"{p}self_attn.{kind}_proj.weight"] = shape
        else:
            shapes.update(mamba_shapes(p + "mamba.", config))
        if is_jamba and layer % config["expert_layer_period"] == config["expert_layer_offset"]:
            p += "feed_forward."
            shapes[p + "router.weight"] = [config["num_experts"], h]
            prefixes = [f"{p}experts.{e}." for e in range(config["num_experts"])]
        else:
            prefixes = [p + ("feed_forward." if is_jamba else "mlp.")]
        for prefix in prefixes:
            shapes[prefix + "gate_proj.weight"] = [i, h]
            shapes[prefix + "up_proj.weight"] = [i, h]
            shapes[prefix + "down_proj.weight"] = [h, i]
    return shapes


def mamba_shapes(p, config):
    h, n, r = config["hidden_size"], config["mamba_d_state"], config["mamba_dt_rank"]
    d = config["mamba_expand"] * h
    shapes = {p + "in_proj.weight": [2 * d, h], p + "conv1d.weight": [d, 1, config["mamba_d_conv"]],
              p + "x_proj.weight": [r + 2 * n, d], p + "dt_proj.weight": [d, r], p + "dt_proj.bias": [d],
              p + "A_log": [d, n], p + "D": [d], p + "dt_layernorm.weight": [r],
              p + "b_layernorm.weight": [n], p + "c_layernorm.weight": [n], p + "out_proj.weight": [h, d]}
    if config["mamba_conv_bias"]:
        shapes[p + "conv1d.bias"] = [d]
    if config["mamba_proj_bias"]:
        shapes[p + "in_proj.bias"] = [2 * d]
        shapes[p + "out_proj.bias"] = [h]
    return shapes


def elements(shape):
    count = 1
    for size in shape:
        count *= size
    return count


def random_tensors(config, dtype, seed=1):
    """Tensor name -> (dtype, shape, bytes): any bits, NaN and infinity among them."""
    generator = random.Random(seed)
    return {name: (dtype, shape, generator.randbytes(elements(shape) * WIDTH[dtype]))
            for name, shape in shapes_of(config).items()}


def fused(tensors):
    """The same with each layer's experts as two tensors, as transformers 5 holds them in memory."""
    out, layers = {}, {}
    for name, tensor in tensors.items():
        if ".experts." in name:
            prefix, rest = name.split(".experts.")
            expert, kind, _ = rest.split(".")
            layers.setdefault(prefix + ".experts.", {})[int(expert), kind] = tensor
        else:
            out[name] = tensor
    for prefix, parts in layers.items():
        experts = range(1 + max(expert for expert, _ in parts))
        dtype, (i, h), _ = parts[0, "gate_proj"]
        out[prefix + "gate_up_proj"] = (dtype, [len(experts), 2 * i, h], b"".join(
            parts[e, kind][2] for e in experts for kind in ("gate_proj", "up_proj")))
        out[prefix + "down_proj"] = (dtype, [len(experts), h, i], b"".join(
            parts[e, "down_proj"][2] for e in experts))
    return out


def write_safetensors(path, tensors):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    content = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    tensors = {}
    for name, entry in json.loads(content[8:8 + size]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = (entry["dtype"], entry["shape"], content[8 + size + begin:8 + size + end])
    return tensors


def write_folder(folder, config, tensors, shards=1):
    """A model folder with this many files; dtype as that of the first tensor."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    dtype = next(iter(tensors.values()))[0]
    text = json.dumps(dict(config, torch_dtype=TORCH_NAME.get(dtype, "float32")))
    (folder / "config.json").write_text(text)
    (folder / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": [2, 3]}')
    (folder / "tokenizer_config.json").write_text('{"not": "read"}\n')
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return folder
    weight_map = {name: f"model-{1 + i % shards:05}-of-{shards:05}.safetensors"
                  for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        write_safetensors(folder / file, {n: t for n, t in tensors.items() if weight_map[n] == file})
    total = sum(len(values) for _, _, values in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_sparse_folder(folder, config, dtype):
    """A model folder of zeros that takes no room on the disk."""
    folder = pathlib.Path(folder)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(config, torch_dtype=TORCH_NAME[dtype])))
    header, end = {}, 0
    for name, shape in shapes_of(config).items():
        begin, end = end, end + elements(shape) * WIDTH[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def read_folder(folder):
    """Tensors of a folder: by the index where there is one."""
    folder = pathlib.Path(folder)
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(folder / "model.safetensors")
    tensors = {}
    weight_map = json.loads(index.read_text())["weight_map"]
    for file in sorted(set(weight_map.values())):
        found = read_safetensors(folder / file)
        assert set(found) == {name for name, where in weight_map.items() if where == file}, file
        tensors.update(found)
    return tensors
