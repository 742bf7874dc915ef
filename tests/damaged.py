"""Damaged and forged files, made of a whole one: each is none that can be read."""

import copy
import hashlib
import io
import json
import pickle
import random
import zipfile

import torch
from safetensors.torch import save as save_safetensors

GOOD_NAMES = ("__metadata__",)


def take_apart(data):
    """Header, content of its metadata, and values of a file."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    content = json.loads(header["__metadata__"]["skdeepcluster"])
    return header, content, data[8 + length :]


def put_together(header, content, values):
    """The file of these parts, with the hash that goes with the content."""
    text = json.dumps(content)
    digest = hashlib.sha256(text.encode()).hexdigest()
    metadata = {"skdeepcluster": text, "sha256": digest}
    return framed(json.dumps({**header, "__metadata__": metadata}), values)


def framed(header, values=b""):
    raw = header if isinstance(header, bytes) else header.encode()
    return len(raw).to_bytes(8, "little") + raw + values


def flipped(data, n, start, stop, seed):
    """Copies in each of which one bit between two places is another one."""
    draws = random.Random(seed)
    for _ in range(n):
        place, bit = draws.randrange(start, stop), draws.randrange(8)
        yield (
            f"bit {bit} of byte {place}",
            data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :],
        )


def cut_and_grown(data):
    end = len(data)
    header = 8 + int.from_bytes(data[:8], "little")
    for size in (0, 1, 7, 8, 9, 10, 100, header - 1, header, header + 1, end // 2):
        yield f"cut to {size}", data[:size]
    for n in (1, 3, 8, 512):
        yield f"cut by {n}", data[:-n]
    for n in (1, 8, 10**6):
        yield f"grown by {n}", data + bytes(n)
    yield "twice", data + data
    yield "a byte before", b"\0" + data
    yield "a byte within", data[:header] + b"\0" + data[header:]


def foreign(data):
    archive, sealed = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", data)
    torch.save({"a": torch.ones(3)}, sealed)
    yield "a zip", archive.getvalue()
    yield "a file of torch", sealed.getvalue()
    yield "a pickle", pickle.dumps({"a": list(range(100))})
    yield "a pickle that runs code", b"cos\nsystem\n(S'exit 1'\ntR."
    yield "text", b"labels,1,2,3\n" * 20
    yield "zeros", bytes(10_000)
    yield "a safetensors file", save_safetensors({"a": torch.ones(3)})
    metadata = {"format": "pt"}
    yield "one with metadata", save_safetensors({"a": torch.ones(3)}, metadata)
    for text in ("", "{}", "[]", "null", '{"document": 1}'):
        yield (
            f"one that holds {text!r}",
            save_safetensors({}, {"skdeepcluster": text, "sha256": sha256(text)}),
        )


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def bombs(data):
    header, content, values = take_apart(data)
    for length in (len(data), 2**24 + 1, 2**31, 2**63, 2**64 - 1):
        yield f"a header of {length}", length.to_bytes(8, "little") + data[8:]
    deep = "[" * 200_000
    yield "a deep header", framed('{"a":' + deep)
    yield "a deep header that ends", framed('{"a":' + deep + "]" * len(deep) + "}")
    yield "a long header", framed('{"a":[' + "[]," * (5 * 2**20) + "[]]}")
    yield "many names", framed("{" + ",".join(f'"{i}":0' for i in range(600_000)) + "}")
    yield "a long number", framed('{"a":' + "1" * 10_000 + "}")
    yield "no number", framed('{"a":NaN}')
    yield "not UTF-8", framed(b'{"\xff":1}')
    yield "a list", framed("[1,2]" + " " * 20)
    deep_content = {**content, "document": nested(500)}
    yield "a deep document", put_together(header, deep_content, values)
    name = next(iter(content["tensors"]))
    again = json.dumps({name: header[name]})[1:-1]
    whole = json.dumps(header)
    yield "a name twice", framed("{" + again + "," + whole[1:], values)
    text = header["__metadata__"]["skdeepcluster"]
    text = '{"format":1,' + text[1:]
    metadata = {"skdeepcluster": text, "sha256": sha256(text)}
    twice = json.dumps({**header, "__metadata__": metadata})
    yield "a name twice in the content", framed(twice, values)
    huge = {**header, "x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    for shape in ([2**62, 0], [1] * 100 + [0], [2**70], [10**12], [-1], [1.5], [True]):
        huge["x"]["shape"] = shape
        yield f"a shape {shape[:2]}", put_together(huge, content, values)


def nested(depth):
    tree = []
    for _ in range(depth):
        tree = [tree]
    return tree


def rearranged(data):
    """Tensors that are renamed, exchanged, added, left out, or of another kind."""
    whole = take_apart(data)
    names = sorted(whole[1]["tensors"], key=lambda n: whole[0][n]["data_offsets"])
    alike = {}
    for name in names:
        key = str(whole[0][name]["dtype"]), str(whole[0][name]["shape"])
        alike.setdefault(key, {})[whole[1]["tensors"][name]["sha256"]] = name
    pair = next([*group.values()] for group in alike.values() if len(group) > 1)

    def changed(change):
        header, content, values = copy.deepcopy(whole[:2]) + (whole[2],)
        values = change(header, content["tensors"], values) or values
        return put_together(header, content, values)

    def exchange(header, table, values):
        a, b = (header[name] for name in pair[:2])
        a["data_offsets"], b["data_offsets"] = b["data_offsets"], a["data_offsets"]

    def rename(header, table, values):
        header["other"] = header.pop(names[0])

    def rename_both(header, table, values):
        rename(header, table, values)
        table["other"] = table.pop(names[0])

    def add(header, table, values):
        place = [len(values), len(values) + 4]
        header["more"] = {"dtype": "F32", "shape": [1], "data_offsets": place}
        return values + bytes(4)

    def add_both(header, table, values):
        values = add(header, table, values)
        facts = {"dtype": "F32", "shape": [1]}
        table["more"] = {**facts, "sha256": hashlib.sha256(bytes(4)).hexdigest()}
        return values

    def leave_out(header, table, values):
        first, last = header.pop(names[-1])["data_offsets"]
        return values[:first]

    def leave_out_both(header, table, values):
        del table[names[-1]]
        return leave_out(header, table, values)

    def overlap(header, table, values):
        header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]

    def gap(header, table, values):
        header[names[-1]]["data_offsets"] = [x + 4 for x in offsets(header)]
        return values + bytes(4)

    def offsets(header):
        return header[names[-1]]["data_offsets"]

    changes = [exchange, rename, rename_both, add, add_both, leave_out]
    for change in (*changes, leave_out_both, overlap, gap):
        yield change.__name__, changed(change)
    for key, value in (
        ("dtype", "I32"),
        ("dtype", "F33"),
        ("dtype", 7),
        ("shape", "1"),
        ("shape", None),
        ("data_offsets", [0]),
        ("data_offsets", [-4, 0]),
        ("data_offsets", [0.0, 4.0]),
        ("data_offsets", None),
        ("more", 1),
    ):

        def set_header(header, table, values, key=key, value=value):
            header[names[0]][key] = value

        def set_table(header, table, values, key=key, value=value):
            table[names[0]][key] = value

        yield f"{key}={value} in the header", changed(set_header)
        yield f"{key}={value} in the content", changed(set_table)


def rewritten(data):
    """A content that is another one, with the hash that goes with it."""
    header, content, values = take_apart(data)
    document = content["document"]
    for key, value in (
        ("format", 2),
        ("format", 0),
        ("format", "1"),
        ("format", True),
        ("format", None),
        ("kind", "checkpoint"),
        ("kind", None),
        ("more", 1),
        ("tensors", None),
        ("tensors", []),
        *[("document", x) for x in (None, 1, "x", [], {}, {"$": "tuple", "items": 1})],
    ):
        yield f"{key}={value}", put_together(header, {**content, key: value}, values)
    for key in content:
        less = {k: v for k, v in content.items() if k != key}
        yield f"no {key}", put_together(header, less, values)
    for part, key, value in (
        ("estimator", "name", "system"),
        ("estimator", "name", "os.system"),
        ("estimator", "name", ["DigPro"]),
        ("estimator", "name", "SCL"),
        ("estimator", "package", False),
        ("estimator", None, None),
        ("params", "n_clusters", 4),
        ("params", "n_clusters", 10**9),
        ("params", "n_clusters", 10**30),
        ("params", "n_clusters", -1),
        ("params", "n_clusters", "many"),
        ("params", "feature_dim", 9),
        ("params", "feature_dim", 2**31),
        ("params", "hidden_dim", 10**9),
        ("params", "hidden_dim", 0),
        ("params", "no_such_parameter", 1),
        ("params", "augment", 3),
        ("own", "backbone", "Net"),
        ("own", "no_such_parameter", "Net"),
        ("own", "backbone", 3),
        ("resolved", "backbone", "resnet18"),
        ("resolved", "backbone", "resnet152"),
        ("resolved", "backbone", "no_such_network"),
        ("resolved", "backbone", "/etc/passwd"),
        ("resolved", "backbone", None),
        ("resolved", "n_clusters", 2**31 + 1),
        ("resolved", "max_epochs", 10**12),
        ("resolved", "no_such_parameter", 1),
        ("attributes", "predict", 1),
        ("attributes", "n_clusters", 4),
        ("attributes", "layout_", None),
        ("attributes", "layout_", {"$": "Layout", "state": {"shape": [1, 8, 8]}}),
        ("attributes", "layout_", {"$": "Popen", "state": {"args": ["true"]}}),
        ("attributes", "x_", {"$": "__import__", "name": "os"}),
        ("attributes", "x_", {"$": "tensor", "name": "no_such_tensor"}),
        ("attributes", "x_", {"$": "tensor"}),
        ("attributes", "x_", {"$": "dtype", "text": "O,O"}),
        ("attributes", "x_", {"$": "torch.dtype", "text": "load"}),
        ("attributes", "x_", {"$": "scalar", "dtype": "|O", "hex": "00" * 8}),
        ("attributes", "x_", {"$": ["unhashable"]}),
        ("attributes", "x_", {"$": "int", "hex": "0x" + "f" * 10 + "g"}),
        ("data", "n_samples", -5),
        ("data", "n_samples", "many"),
        ("data", "n_samples", 10**30),
        ("data", "scaling", None),
        ("data", "scaling", {"forward": 1}),
        ("module", "centers", None),
        ("module", "no_such_state", 1),
        ("module", "_extra_state", None),
        ("module", "_extra_state", {"forward": 1}),
    ):
        new = copy.deepcopy(content)
        if key is None:
            del new["document"][part]
        else:
            new["document"][part][key] = value
        yield f"{part}[{key}]={value}", put_together(header, new, values)
    shape = copy.deepcopy(content)
    state = shape["document"]["attributes"]["layout_"]["state"]
    state["shape"]["items"] = [1, 10**6, 10**6]
    yield "large images", put_together(header, shape, values)
    assert document == content["document"]


def damaged_models(data):
    """Names of damages and the files that they leave."""
    header = 8 + int.from_bytes(data[:8], "little")
    yield from cut_and_grown(data)
    yield from foreign(data)
    yield from bombs(data)
    yield from rearranged(data)
    yield from rewritten(data)
    yield from flipped(data, 40, 0, 8 + 64, seed=0)
    yield from flipped(data, 60, 0, header, seed=1)
    yield from flipped(data, 60, header, len(data), seed=2)
