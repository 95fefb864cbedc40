"""Each thing that can be wrong in models.yaml: its exact line and column, and words that say what
would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
from spec_files import model, problems

# What several messages say.
ONE_OF_THE_DEVICES = "it must be one of cpu, cuda"
ONE_OF_THE_ISAS = "it must be one of native, avx2, avx512"
NO_ARCHITECTURE = "is not an architecture; write native, or sm_80 for compute capability 8.0"
NO_CALLABLE = "does not name a callable; write module:callable or path.py:callable"
FIXED_SIZES = "torch.export treats the sizes 0 and 1 as fixed"

# A name for the case, the file, and how each of its problems begins.
BAD: list[tuple[str, str, list[str]]] = [
    ("empty", "", ["1:1: models.yaml is empty"]),
    (
        "tab",
        "version: 1\nmodels:\n\tm: 1\n",
        ["3:1: a tab; YAML forbids tabs for indentation, so use spaces"],
    ),
    ("not a mapping", "- a\n", ["1:1: the file must be a mapping, not a list"]),
    (
        "another version",
        "version: 2\nnonsense: 1\n",
        ["1:10: version 2 is not supported; write version 1"],
    ),
    (
        "no version",
        "models: {m: {source: m:f, inputs: x.py:f}}",
        ["1:1: the file is missing the required key 'version'"],
    ),
    (
        "version as text",
        model().replace("1", "'1'", 1),
        ["1:10: 'version' must be an integer, not the string '1'"],
    ),
    (
        "version true",
        model().replace("1", "true", 1),
        ["1:10: 'version' must be an integer, not true"],
    ),
    (
        "no models",
        "version: 1\nmodels: {}\n",
        ["2:9: 'models' is empty; it needs at least one entry"],
    ),
    ("models without value", "version: 1\nmodels:\n", ["2:1: 'models' has no value"]),
    (
        "duplicate key",
        model() + "  source: m:g\n",
        ["6:3: duplicate key 'source'; line 4 already has it, so remove one"],
    ),
    ("unknown key", model(sede="3"), ["6:3: unknown key 'sede' (did you mean 'seed'?)"]),
    (
        "unknown key far off",
        model(zzzzzz="3"),
        ["6:3: unknown key 'zzzzzz' (known: source, inputs, kwargs"],
    ),
    (
        "unknown top key",
        "model: 1\n" + model(),
        ["1:1: unknown key 'model' (did you mean 'models'?)"],
    ),
    (
        "unknown dim key",
        model(inputs="[{shape: [b]}]", dims="{b: {mx: 3, max: 4}}"),
        ["6:14: unknown key 'mx' (did you mean 'max'?)"],
    ),
    ("missing source", model(source=""), ["3:2: 'm' is missing the required key 'source'"]),
    ("missing inputs", model(inputs=""), ["3:2: 'm' is missing the required key 'inputs'"]),
    (
        "missing max",
        model(inputs="[{shape: [b]}]", dims="{b: {min: 1}}"),
        ["6:10: 'b' is missing the required key 'max'"],
    ),
    (
        "model is text",
        "version: 1\nmodels: {m: x}",
        ["2:13: 'm' must be a mapping, not the string 'x'"],
    ),
    (
        "unknown preset",
        model(inductor_configs="[default, fats]"),
        ["6:31: unknown preset 'fats' (known: default, tuned)"],
    ),
    (
        "preset misspelt",
        "inductor_configs: {fast: {}}\n" + model(inductor_configs="{cpu: [fats]}"),
        ["7:28: unknown preset 'fats' (did you mean 'fast'?)"],
    ),
    (
        "an architecture that is none",
        model(cpu="{isa: [{}, native]}"),
        ["6:15: 'isa'[0] is a mapping; it must be one of"],
    ),
    (
        "a size of many digits",
        model(reference_data="{limit: " + "9" * 5000 + "g}"),
        ["6:27: '99999"],
    ),
    ("a path of many letters", model(files="[" + "x" * 300 + ".txt]"), ["6:11: the path 'xxxx"]),
    (
        "a path with a NUL",
        model(files='["a\\0b"]'),
        ["6:11: the path 'a\\x00b' has a NUL character; remove it"],
    ),
    (
        "preset twice",
        model(inductor_configs="[default, default]"),
        ["6:31: 'default' is listed twice"],
    ),
    ("no presets", model(inductor_configs="[]"), ["6:21: 'inductor_configs' is empty"]),
    (
        "presets as text",
        model(inductor_configs="7"),
        ["6:21: 'inductor_configs' must be a string or list or mapping, not the"],
    ),
    (
        "one preset misspelt",
        "inductor_configs: {fast: {}}\n" + model(inductor_configs="fats"),
        ["7:21: unknown preset 'fats' (did you mean 'fast'?)"],
    ),
    (
        "presets of no device",
        model(inductor_configs="{cuda: [default]}"),
        ["6:22: 'cuda' is not in devices (cpu); add it there"],
    ),
    (
        "presets of gpu",
        model(inductor_configs="{gpu: [default]}"),
        ["6:22: this key is the string 'gpu'; it must be one of"],
    ),
    (
        "preset option",
        "inductor_configs: {q: {a-b: 1}}\n" + model(),
        ["1:24: 'a-b' is not an inductor option"],
    ),
    (
        "preset of nan",
        "inductor_configs: {q: {a: [.nan]}}\n" + model(),
        ["1:28: nan and inf are not allowed here"],
    ),
    (
        "device unknown",
        model(devices="[cpu, gpu]"),
        [f"6:18: 'devices'[1] is the string 'gpu'; {ONE_OF_THE_DEVICES} (did you mean 'cuda'?)"],
    ),
    (
        "device with index",
        model(devices="['cuda:0']"),
        [f"6:13: 'devices'[0] is the string 'cuda:0'; {ONE_OF_THE_DEVICES} (did you mean 'cuda'?)"],
    ),
    ("device twice", model(devices="[cpu, cpu]"), ["6:18: 'cpu' is listed twice"]),
    ("no device", model(devices="[]"), ["6:12: 'devices' is empty"]),
    ("seed negative", model(seed="-1"), ["6:9: 'seed' is -1; it must be at least 0"]),
    ("seed true", model(seed="true"), ["6:9: 'seed' must be an integer, not true"]),
    (
        "seed as text",
        model(seed="'3'"),
        ["6:9: 'seed' must be an integer, not the string '3'; remove the quotes"],
    ),
    ("seed as float", model(seed="1.0"), ["6:9: 'seed' must be an integer, not the number 1.0"]),
    (
        "seed too large",
        model(seed="9223372036854775808"),
        ["6:9: 'seed' is 9223372036854775808; it must be at most"],
    ),
    ("kwargs inf", model(kwargs="{a: {b: .inf}}"), ["6:19: nan and inf are not allowed here"]),
    ("kwargs list", model(kwargs="[1]"), ["6:11: 'kwargs' must be a mapping, not a list"]),
    ("kwargs empty", model(kwargs=" "), ["6:3: 'kwargs' has no value"]),
    ("tolerance negative", model(tolerance="{atol: -1}"), ["6:21: -1 is negative"]),
    ("tolerance inf", model(tolerance="{rtol: .inf}"), ["6:21: inf is not finite"]),
    (
        "tolerance text",
        model(tolerance="{rtol: '1e-3'}"),
        ["6:21: 'rtol' must be a number, not the string '1e-3'; remove"],
    ),
    ("isas", model(cpu="{isa: []}"), ["6:14: 'isa' is empty; it needs at least one entry"]),
    ("isa twice", model(cpu="{isa: [avx2, native, avx2]}"), ["6:29: 'avx2' is listed twice"]),
    (
        "isa in a list",
        model(cpu="{isa: [native, avx51]}"),
        [f"6:23: 'isa'[1] is the string 'avx51'; {ONE_OF_THE_ISAS} (did you mean 'avx512'?)"],
    ),
    (
        "isa as number",
        model(cpu="{isa: 2}"),
        ["6:14: 'isa' must be a string or list, not the number 2"],
    ),
    (
        "arch without its prefix",
        model(cuda="{arch: '9.0'}"),
        [f"6:16: '9.0' {NO_ARCHITECTURE} (did you mean 'sm_90'?)"],
    ),
    (
        "arch cut short",
        model(cuda="{arch: sm_12}"),
        [f"6:16: 'sm_12' {NO_ARCHITECTURE}"],
    ),
    (
        "arch misspelt",
        model(cuda="{arch: [SM80]}"),
        [f"6:17: 'SM80' {NO_ARCHITECTURE}"],
    ),
    (
        "arch of PTX",
        model(cuda="{arch: compute_90}"),
        [f"6:16: 'compute_90' {NO_ARCHITECTURE}"],
    ),
    ("arches", model(cuda="{arch: []}"), ["6:16: 'arch' is empty; it needs at least one entry"]),
    ("arch twice", model(cuda="{arch: [sm_80, sm_80]}"), ["6:24: 'sm_80' is listed twice"]),
    (
        "preset like an isa",
        "inductor_configs: {AVX2: {}}\n"
        + model(inductor_configs="[default, AVX2]", cpu="{isa: [native, avx2]}"),
        ["8:23: cpu for avx2 with the preset 'default', and cpu for native with"],
    ),
    (
        "preset like an arch and a preset",
        "inductor_configs: {fast: {}, sm_80-fast: {}}\n"
        + model(
            devices="[cuda]", inductor_configs="[fast, sm_80-fast]", cuda="{arch: [sm_80, native]}"
        ),
        ["9:24: cuda for native with the preset 'sm_80-fast', and cuda for"],
    ),
    (
        "isa",
        model(cpu="{isa: avx}"),
        [f"6:14: 'isa' is the string 'avx'; {ONE_OF_THE_ISAS} (did you mean 'avx2'?)"],
    ),
    (
        "name with slash",
        model().replace(" m:\n", " a/b:\n"),
        ["3:2: the name 'a/b' becomes a directory name, so it cannot"],
    ),
    (
        "name with backslash",
        model().replace(" m:\n", " 'a\\b':\n"),
        ["3:2: the name 'a\\\\b' becomes a directory name, so it cannot"],
    ),
    (
        "name with dot last",
        model().replace(" m:\n", " m.:\n"),
        ["3:2: the name 'm.' cannot be a directory name"],
    ),
    (
        "name with dot first",
        model().replace(" m:\n", " .m:\n"),
        ["3:2: the name '.m' cannot be a directory name"],
    ),
    (
        "name empty",
        model().replace(" m:\n", " '':\n"),
        ["3:2: the name '' cannot be a directory name"],
    ),
    (
        "name with newline",
        model().replace(" m:\n", ' "m\\n":\n'),
        ["3:2: the name 'm\\n' cannot be a directory name"],
    ),
    (
        "name too long",
        model().replace(" m:\n", f" {'m' * 101}:\n"),
        ["3:2: a name of 101 characters exceeds the limit of 100"],
    ),
    (
        "names that differ in case",
        model() + " M: {source: m:f, inputs: x.py:f}\n",
        ["6:2: 'M' and 'm' (line 3) differ only in case"],
    ),
    (
        "preset like default",
        "inductor_configs: {Default: {}}\n" + model(),
        ["1:20: 'Default' and 'default' differ only in case"],
    ),
    (
        "source without colon",
        model(source="a.b.c"),
        [f"4:11: 'a.b.c' {NO_CALLABLE} (did you mean 'a.b:c'?)"],
    ),
    (
        "source file only",
        model(source="x.py"),
        [f"4:11: 'x.py' {NO_CALLABLE}"],
    ),
    (
        "source attribute",
        model(source="a.b:3c"),
        ["4:11: '3c' after the ':' is not a Python name"],
    ),
    ("source module", model(source="a-b:c"), ["4:11: 'a-b' before the ':' is not a module name"]),
    (
        "source path",
        model(source="a/b:c"),
        ["4:11: 'a/b' is neither a module nor a path that ends in .py"],
    ),
    ("source absolute", model(source="/x.py:c"), ["4:11: the path '/x.py' is absolute"]),
    ("source on a drive", model(source="C:/x.py:c"), ["4:11: the path 'C:/x.py' is absolute"]),
    (
        "source outside",
        model(source="a/../../x.py:c"),
        ["4:11: the path 'a/../../x.py' leads out of the directory"],
    ),
    (
        "source backslash",
        model(source="a\\x.py:c"),
        ["4:11: the path 'a\\\\x.py' has backslashes; use '/'"],
    ),
    (
        "source number",
        model(source="3"),
        ["4:11: 'source' must be a string, not the number 3; put it in quotes"],
    ),
    (
        "weights suffix",
        model(weights="x.py"),
        ["6:12: weights must be a file that ends in .safetensors, .pt, .pth, .bin, .ckpt,"],
    ),
    (
        "weights of another user",
        model(weights="~you/e.pt"),
        ["6:12: the path '~you/e.pt' is in another user's home directory"],
    ),
    (
        "weights without a file",
        model(weights="{key: a}"),
        ["6:3: 'weights' is missing the required key 'file'"],
    ),
    (
        "weights of a list",
        model(weights="[a.pt]"),
        ["6:12: 'weights' must be a string or mapping, not a list"],
    ),
    (
        "a key in safetensors",
        model(weights="{file: a.safetensors, key: model}"),
        ["6:39: a safetensors file has no keys; remove `key`, or select names"],
    ),
    (
        "stars that do not match",
        model(weights="{file: a.pt, rename: {'a.*.b': 'a.b'}}"),
        ["6:43: 'a.*.b' has 1 * and 'a.b' has 0; use the same number in both"],
    ),
    (
        "ignore nothing",
        model(weights="{file: a.pt, ignore: ['']}"),
        ["6:34: 'ignore'[0] is an empty string"],
    ),
    ("method with arguments", model(method="encode()"), ["6:11: 'encode()' is not a Python name"]),
    (
        "strict as a text",
        model(strict="'yes'"),
        ["6:11: 'strict' must be true or false, not the string 'yes'"],
    ),
    (
        "inputs empty list",
        model(inputs="[]"),
        ["5:11: 'inputs' is empty; it needs at least one entry"],
    ),
    (
        "inputs empty mapping",
        model(inputs="{}"),
        ["5:11: 'inputs' is empty; it needs at least one entry"],
    ),
    (
        "inputs number",
        model(inputs="3"),
        ["5:11: 'inputs' must be a list or mapping or string, not the number 3"],
    ),
    ("input keyword", model(inputs="{for: {shape: []}}"), ["5:12: 'for' is not a Python name"]),
    (
        "input without shape",
        model(inputs="[{dtype: bool}]"),
        ["5:12: 'inputs'[0] is missing the required key 'shape'"],
    ),
    (
        "shape as number",
        model(inputs="[{shape: 3}]"),
        ["5:20: 'shape' must be a list, not the number 3"],
    ),
    (
        "shape of float",
        model(inputs="[{shape: [2, 2.5]}]"),
        ["5:24: 'shape'[1] must be a size or dim, not the number 2.5"],
    ),
    (
        "shape of true",
        model(inputs="[{shape: [true]}]"),
        ["5:21: 'shape'[0] must be a size or dim, not true"],
    ),
    (
        "shape negative",
        model(inputs="[{shape: [-1]}]"),
        ["5:21: 'shape'[0] is -1; it must be at least 0"],
    ),
    (
        "dtype unknown",
        model(inputs="[{shape: [], dtype: flaot32}]"),
        ["5:31: 'dtype' is the string 'flaot32'; it must be one of"],
    ),
    (
        "low as text",
        model(inputs="[{shape: [], low: x}]"),
        ["5:29: 'low' must be a number, not the string 'x'"],
    ),
    (
        "low true",
        model(inputs="[{shape: [], low: true}]"),
        ["5:29: 'low' must be a number, not true"],
    ),
    (
        "low of bool",
        model(inputs="[{shape: [], dtype: bool, low: 0}]"),
        ["5:42: low does not apply to bool"],
    ),
    (
        "memory format of another rank",
        model(inputs="[{shape: [2, 3, 4], memory_format: channels_last}]"),
        ["5:46: channels_last is for shapes of 4 entries, and this one has 3; remove it"],
    ),
    (
        "memory format of images for volumes",
        model(inputs="{x: {memory_format: channels_last, shape: [1, 2, 3, 4, 5]}}"),
        ["5:31: channels_last is for shapes of 4 entries, and this one has 5; write channels_last"],
    ),
    (
        "memory format unknown",
        model(inputs="[{shape: [1, 2, 3, 4]}]", memory_format="channels-last"),
        ["6:18: 'memory_format' is the string 'channels-last'; it must be one of"],
    ),
    (
        "memory format of a constant",
        model(inputs="[{value: 2, memory_format: channels_last}]"),
        ["5:23: an input with `value` is not a tensor, so it cannot have 'memory_format'"],
    ),
    (
        "probability of floats",
        model(inputs="[{shape: [], probability: 1}]"),
        ["5:37: probability is for bool inputs, not for float32; remove it"],
    ),
    (
        "probability above 1",
        model(inputs="[{shape: [], dtype: bool, probability: 1.5}]"),
        ["5:50: 1.5 is not between 0 and 1"],
    ),
    (
        "value absent",
        model(inputs="[{value: }]"),
        ["5:13: 'value' has no value; write null for None"],
    ),
    ("value nan", model(inputs="[{value: [1, .nan]}]"), ["5:24: nan and inf are not allowed here"]),
    (
        "value a mapping",
        model(inputs="[{value: {a: 1}}]"),
        ["5:20: a constant must be a number, a string, true, false, null"],
    ),
    (
        "value too large",
        model(inputs=f"[{{value: {2**64}}}]"),
        ["5:20: '18446744073709551616' does not fit"],
    ),
    (
        "value and shape",
        model(inputs="[{value: 1, shape: [2]}]"),
        ["5:23: an input with `value` is not a tensor, so it cannot have 'shape'"],
    ),
    (
        "value and a shape of another type",
        model(inputs="[{value: 1, shape: a*b}, {value: 1, shape: 5}, {value: 1, shape: [b*b]}]"),
        [
            "5:23: an input with `value` is not a tensor",
            "5:47: an input with `value` is not a tensor",
            "5:69: an input with `value` is not a tensor",
        ],
    ),
    (
        "value and a shape with a dim",
        model(inputs="[{value: 1, shape: [b]}]", dims="{b: {max: 3}}"),
        ["5:23: an input with `value` is not a tensor"],
    ),
    (
        "neither value nor shape",
        model(inputs="{x: {}}"),
        ["5:12: 'x' is missing the required key 'shape'"],
    ),
    (
        "outputs of another kind",
        model(outputs="list"),
        ["6:12: 'outputs' is the string 'list'; it must be one of dict"],
    ),
    (
        "imports a file",
        model(imports="[a/ops.py]"),
        ["6:13: 'a/ops.py' is a file; write the module name"],
    ),
    ("imports a path", model(imports="[/ops]"), ["6:13: '/ops' is a file; write the module name"]),
    ("imports no name", model(imports="[a-b]"), ["6:13: 'a-b' is not a module name"]),
    ("imports twice", model(imports="[a, a]"), ["6:16: 'a' is listed twice"]),
    (
        "high of complex",
        model(inputs="[{shape: [], dtype: complex64, high: 3}]"),
        ["5:48: high does not apply to complex64"],
    ),
    (
        "low above high",
        model(inputs="[{shape: [], low: 2, high: 1}]"),
        ["5:38: low 2 must be less than high 1"],
    ),
    (
        "low above default",
        model(inputs="[{shape: [], dtype: int8, low: 5}]"),
        ["5:42: low 5 must be less than high 2 (the default)"],
    ),
    (
        "high of integer",
        model(inputs="[{shape: [], dtype: int8, high: 2.5}]"),
        ["5:43: high is 2.5; for int8 it must be an integer"],
    ),
    (
        "high out of range",
        model(inputs="[{shape: [], dtype: int8, high: 129}]"),
        ["5:43: high 129 is outside the range of int8, -128 to 128"],
    ),
    (
        "low out of range",
        model(inputs="[{shape: [], dtype: uint8, low: -1}]"),
        ["5:43: low -1 is outside the range of uint8, 0 to 255"],
    ),
    (
        "dim not declared",
        model(inputs="[{shape: [batch]}]"),
        ["5:21: the dim 'batch' is not declared in dims"],
    ),
    (
        "dim misspelt",
        model(
            inputs="[{shape: [b, bach]}, {shape: [batch]}]", dims="{b: {max: 3}, batch: {max: 3}}"
        ),
        ["5:24: the dim 'bach' is not declared in dims (did you mean 'batch'?)"],
    ),
    (
        "dim misspelt in a sum",
        model(inputs="[{shape: [past, past + sq, seq]}]", dims="{past: {max: 3}, seq: {max: 3}}"),
        ["5:27: the dim 'sq' is not declared in dims (did you mean 'seq'?)"],
    ),
    (
        "size not affine",
        model(inputs="[{shape: [n*n, n]}]", dims="{n: {max: 3}}"),
        ["5:21: 'n*n' is not a size: write a sum of dims and integers, such as past + 1"],
    ),
    (
        "size without a dim",
        model(inputs="[{shape: ['2 + 3']}]"),
        ["5:21: '2 + 3' uses no dim; write the number 5"],
    ),
    (
        "size that cancels out",
        model(inputs="[{shape: [n - n + 4, n]}]", dims="{n: {max: 3}}"),
        ["5:21: 'n - n + 4' uses no dim; write the number 4"],
    ),
    (
        "size of a keyword",
        model(inputs="[{shape: [lambda + 1]}]"),
        ["5:21: 'lambda' is not a Python name"],
    ),
    (
        "size not whole",
        model(inputs="[{shape: [seq // 4, seq]}]", dims="{seq: {max: 12, multiple_of: 6}}"),
        ["5:21: seq//4 is not an integer for every seq; set multiple_of: 12 on the dim seq"],
    ),
    (
        "size of 0",
        model(inputs="[{shape: [seq - 1, seq]}]", dims="{seq: {max: 8, example: 4}}"),
        [f"5:21: seq - 1 is 0 when seq is 1, but must be at least 1: {FIXED_SIZES}"],
    ),
    (
        "size below 0 at another dim's end",
        model(
            inputs="[{shape: [past - seq, seq, past]}]",
            dims="{seq: {max: 8}, past: {max: 8, example: 4}}",
        ),
        ["5:21: past - seq is -7 when past is 1 and seq is 8, but must be at least 1"],
    ),
    (
        "size of 1 in the example",
        model(inputs="[{shape: [seq - 1, seq]}]", dims="{seq: {min: 2, max: 8}}"),
        ["5:21: seq - 1 is 1 in the example, where seq is 2: torch.export treats"],
    ),
    (
        "size too large",
        model(inputs="[{shape: [3*seq, seq]}]", dims=f"{{seq: {{max: {2**62}}}}}"),
        [f"5:21: 3*seq can be {3 * 2**62}, which exceeds the largest 64-bit integer"],
    ),
    (
        "dims told by no shape",
        model(inputs="[{shape: [a + b, c]}]", dims="{a: {max: 3}, b: {max: 3}, c: {max: 3}}"),
        [
            "6:10: the shapes do not determine the dim 'a'",
            "6:23: the shapes do not determine the dim 'b'",
        ],
    ),
    ("dim unused", model(dims="{b: {max: 3}}"), ["6:10: no shape uses the dim 'b'"]),
    (
        "dim name",
        model(dims="{a-b: {max: 3}}", inputs="[{shape: [a-b]}]"),
        ["6:10: 'a-b' is not a Python name"],
    ),
    ("names of the null kind", model() + " ~: 3\n", ["6:2: a key must be a string, not nothing"]),
    ("merge key", model() + "  <<: 3\n", ["6:3: merge keys (<<)"]),
]
# The offending key stands first.
DIMS: list[tuple[str, str]] = [
    (
        "{min: 0, max: 5}",
        f"min is 0, but must be at least 1: {FIXED_SIZES}",
    ),
    ("{min: 5, max: 4}", "min 5 is greater than max 4"),
    ("{max: 8, multiple_of: 16}", "max 8 is not a multiple of 16; use 16"),
    ("{max: 9, min: 4, multiple_of: 4}", "max 9 is not a multiple of 4; use 8 or 12"),
    ("{min: 3, max: 8, multiple_of: 4}", "min 3 is not a multiple of 4; use 4"),
    (
        "{max: 5, min: 5}",
        "min and max are both 5, so this dim cannot vary; write 5 in the shapes instead",
    ),
    (
        "{max: 8, multiple_of: 8}",
        "min and max are both 8, so this dim cannot vary; write 8 in the shapes instead",
    ),
    ("{max: 1}", "min and max are both 1"),
    ("{max: 0}", "max is 0, but must be at least 1"),
    ("{example: 9, max: 8}", "example 9 is outside the range 1 to 8"),
    ("{example: 2, max: 8, min: 3}", "example 2 is outside the range 3 to 8"),
    (
        "{example: 1, max: 8}",
        f"example 1 would fix this dim: {FIXED_SIZES}; use 2",
    ),
    ("{example: 0, max: 8}", "example 0 would fix this dim"),
    ("{example: -3, max: 8}", "example -3 is outside the range 1 to 8"),
    (
        "{example: 9, max: 16, multiple_of: 4}",
        "example 9 is not a multiple of 4; use 8 or 12",
    ),
    ("{example: 4, max: 16, multiple_of: 4}", "example 4 is 1 * multiple_of"),
    ("{example: x, max: 16}", "'example' must be an integer, not the string 'x'"),
    ("{multiple_of: 0, max: 16}", "'multiple_of' is 0; it must be at least 1"),
]


@pytest.mark.parametrize(
    ("text", "expected"), [row[1:] for row in BAD], ids=[row[0] for row in BAD]
)
def test_bad_input(root: Path, text: str, expected: list[str]) -> None:
    messages = problems(root, text)
    assert len(messages) == len(expected), messages
    for message, beginning in zip(messages, expected, strict=True):
        assert message.startswith(beginning)


@pytest.mark.parametrize(("dim", "expected"), DIMS)
def test_bad_dims(root: Path, dim: str, expected: str) -> None:
    column = dim.index(" ") + 2
    (message,) = problems(
        root, model(inputs="[{shape: [d]}]", dims=f"\n   d:\n{dim.rjust(len(dim) + 4)}")
    )
    assert message.startswith(f"8:{column + 4}: {expected}")


WORDS_FOR_DTYPES = {
    "float": "float32",
    "torch.float32": "float32",
    "half": "float16",
    "int": "int64",
    "torch.long": "int64",
    "Int32": "int32",
    "double": "float64",
    "bfloat": "bfloat16",
    "boolean": "bool",
}


@pytest.mark.parametrize(("word", "dtype"), WORDS_FOR_DTYPES.items())
def test_other_words_for_dtypes(root: Path, word: str, dtype: str) -> None:
    (message,) = problems(root, model(inputs=f"[{{shape: [], dtype: {word}}}]"))
    assert message.endswith(f"(did you mean {dtype!r}?)")


def test_all_problems_at_once_each_in_its_place(root: Path) -> None:
    text = """\
version: 1
models:
  a:
    source: nowhere.py:f
    inputs: [{shape: [btach, 2.5], dtype: float}]
    dims: {batch: {min: 9, max: 8}, seq: {max: x}}
    devices: [gpu]
    foo: 1
    foo: 2
  A:
    source: m:f
    weights: none.pt
    inputs: {x: {shape: [2]}}
    inductor_configs: [fast]
    seed: -1
"""
    assert [line.split(": ")[0] for line in problems(root, text)] == [
        "5:23",
        "5:30",
        "5:43",
        "6:25",
        "6:48",
        "7:15",
        "8:5",
        "9:5",
        "10:3",
        "14:24",
        "15:11",
    ]


def test_a_refused_value_brings_no_second_problem(root: Path) -> None:
    assert problems(root, model(seed="!x 3", dims="*nope", devices="[!y cpu]")) == [
        "6:9: the tag '!x' is not supported; remove it",
        "7:9: the alias *nope has no anchor &nope before it",
        "8:13: the tag '!y' is not supported; remove it",
    ]
    merged = "version: 1\nmodels:\n m:\n  <<: {source: m:f}\n  inputs: [{shape: [2]}]\n"
    assert [line[:4] for line in problems(root, merged)] == ["4:3:"]
