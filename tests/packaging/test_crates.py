"""Dependencies point one way, and their licences allow what we do."""

import re

# Each crate may use only crates to its left.
ORDER = [
    "kilotok-kernels",
    "kilotok-gpu",
    "kilotok",
    "kilotok-text",
    "kilotok-server",
    "kilotok-py",
]

ALLOWED_LICENCES = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
}


def is_allowed(expression: str) -> bool:
    """Evaluate an SPDX expression: OR is our choice, AND binds tighter and binds us."""
    text = re.sub(r"\s+WITH\s+", "_WITH_", expression.replace("/", " OR "))
    tokens = re.findall(r"[()]|[^\s()]+", text)

    def alternatives() -> bool:
        value = conjunction()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            value = conjunction() or value
        return value

    def conjunction() -> bool:
        value = term()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            value = term() and value
        return value

    def term() -> bool:
        token = tokens.pop(0)
        if token == "(":
            value = alternatives()
            assert tokens.pop(0) == ")"
            return value
        return token.replace("_WITH_", " WITH ") in ALLOWED_LICENCES

    value = alternatives()
    assert not tokens, f"cannot read {expression!r}"
    return value


def test_spdx_expressions_are_read_as_written():
    for good in ["MIT", "MIT OR GPL-3.0", "MIT/GPL-2.0", "(MIT OR X) AND Unicode-3.0"]:
        assert is_allowed(good), good
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(GPL-2.0 OR LGPL-3.0) AND MIT", "LGPL-3.0-only"]:
        assert not is_allowed(bad), bad


def test_every_dependency_has_an_allowed_licence(cargo_metadata):
    refused = {
        f"{package['name']} {package['version']}": package["license"]
        for package in cargo_metadata["packages"]
        if not is_allowed(package["license"] or "none")
    }
    assert not refused


def test_crates_depend_only_on_crates_to_their_left(cargo_metadata):
    members = set(cargo_metadata["workspace_members"])
    ours = [package for package in cargo_metadata["packages"] if package["id"] in members]
    assert {package["name"] for package in ours} <= set(ORDER)
    for package in ours:
        allowed = ORDER[: ORDER.index(package["name"])]
        used = {dep["name"] for dep in package["dependencies"] if dep["name"].startswith("kilotok")}
        assert used <= set(allowed), f"{package['name']} uses {used - set(allowed)}"


def test_the_crate_to_embed_has_no_runtime_and_no_python(cargo_metadata):
    names = {package["id"]: package["name"] for package in cargo_metadata["packages"]}
    edges = {node["id"]: node for node in cargo_metadata["resolve"]["nodes"]}
    start = next(package_id for package_id, name in names.items() if name == "kilotok")
    seen: set[str] = set()
    pending = [start]
    while pending:
        package_id = pending.pop()
        if package_id in seen:
            continue
        seen.add(package_id)
        pending += [
            dep["pkg"]
            for dep in edges[package_id]["deps"]
            if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])
        ]
    reached = {names[package_id] for package_id in seen}
    assert not reached & {"tokio", "pyo3", "axum", "hyper", "reqwest"}


def test_only_the_driver_layer_uses_a_cuda_binding(cargo_metadata):
    members = set(cargo_metadata["workspace_members"])
    users = {
        package["name"]
        for package in cargo_metadata["packages"]
        if package["id"] in members
        for dep in package["dependencies"]
        if dep["name"] == "cudarc"
    }
    assert users == {"kilotok-gpu"}
