"""Hostile bundle configs: each tries to run code, to write elsewhere, or to exhaust the reader.

MARK stands for a file that only a successful attack makes, OUTSIDE for a folder beyond the bundle, OTHER for
another bundle beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TOUCH = "__import__('os').system('touch MARK')"
LOGGING = """[loggers]
keys=root
[handlers]
keys=console
[formatters]
keys=line
[logger_root]
level=INFO
handlers=console
[handler_console]
class=StreamHandler
formatter=line
args=(sys.stdout,)
[formatter_line]
format=%(message)s
"""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A bundle, and what its refusal must name.

    Args:
        files: path below the bundle -> text; configs/run.yaml is what is run.
        names: text of the error: the key or the file.
        arguments: of the command line.
        links: path below the bundle -> what it points to.
    """

    files: dict[str, str]
    names: str
    arguments: dict[str, Any] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


def config(text: str, names: str, **others: Any) -> Attack:
    return Attack(files={"configs/run.yaml": text}, names=names, **others)


def target(name: str, arguments: str = "") -> Attack:
    return config(f"run:\n- {{_target_: {name}{arguments}}}\n", "run::0::_target_")


def expression(text: str, rest: str = "") -> Attack:
    """Hide an expression in a value that the run refers to."""
    return config(f'x: "${text}"\na: 1\n{rest}run: ["@x"]\n', "x: ")


def writing(directory: str, **others: Any) -> Attack:
    text = f"output_dir: outputs\nlog: {{_target_: medldm.training.TrainingLog, directory: {directory}}}\n"
    return config(text + 'run: ["@log"]\n', others.pop("names", "log::directory"), **others)


def logging_file(old: str, new: str, names: str) -> Attack:
    assert old in LOGGING
    files = {"configs/run.yaml": 'run: ["$1 + 1"]\n', "configs/logging.conf": LOGGING.replace(old, new)}
    return Attack(files=files, names=names)


TARGETS = {
    "subprocess": target("subprocess.run", ", args: [touch, MARK]"),
    "os_system": target("os.system", ", command: touch MARK"),
    "posix_system": target("posix.system", ", command: touch MARK"),
    "eval": target("builtins.eval", ', source: "1"'),
    "exec": target("builtins.exec", ', source: "1"'),
    "import": target("importlib.import_module", ", name: antigravity"),
    "getattr": target("builtins.getattr"),
    "partial": target("functools.partial"),
    "own_command_line": target("medldm.cli.main.main", ', arguments: ["run", "--trusted-bundle"]'),
    "module_through_own_module": target("medldm.workflows.logging.os.system", ", command: touch MARK"),
    "module_through_torch": target("torch.optim.lr_scheduler.warnings.sys.exit"),
    "torch_load": target("torch.load", ", f: MARK"),
    "torch_hub": target("torch.hub.load", ", repo_or_dir: a/b, model: c"),
    "pickle": target("pickle.load"),
    "checkpoint_loader": target("CheckpointLoader", ", load_path: MARK"),
    "load_image_by_reader": target("LoadImage", ", reader: subprocess.Popen"),
    "lambda_transform": target("Lambda", ", func: eval"),
    "persistent_dataset": target("PersistentDataset", ", cache_dir: OUTSIDE"),
    "bundle_run": target("monai.bundle.run", ", config_file: other.yaml"),
    "bundle_load": target("monai.bundle.load", ", name: a"),
    "config_parser": target("monai.bundle.ConfigParser"),
    "optional_import": target("monai.utils.optional_import", ", module: antigravity"),
    "load_net": target("monai.data.load_net_with_metadata", ", filename: MARK"),
    "old_state": target("monai.networks.utils.load_old_state"),
    "spelt_with_space": target('" medldm.VAE"'),
    "by_reference": config(
        'name: os.system\nrun: [{_target_: "@name", command: touch MARK}]\n', "run::0::_target_"
    ),
    "by_expression": target(f'"${TOUCH}"'),
    "by_macro": config(
        'name: os.system\nrun: [{_target_: "%name", command: touch MARK}]\n', "run::0::_target_"
    ),
    "by_list": target("[os.system]"),
    "by_mapping": target("{_target_: medldm.VAE}"),
    "debugger": config("run: [{_target_: medldm.VAEConfig, _mode_: debug}]\n", "run::0::_mode_"),
    "breakpoint": config("run: [{_target_: medldm.VAEConfig, _debug_: true}]\n", "run::0::_debug_"),
}

EXPRESSIONS = {
    "dunder_import": expression(TOUCH),
    "import_statement": expression("import antigravity"),
    "import_from": expression("from os import system"),
    "subclasses": expression("().__class__.__base__.__subclasses__()"),
    "globals": expression("@a.run.__globals__"),
    "full_width_dunder": expression("@a.__ｃｌａｓｓ__"),
    "lambda": expression("(lambda: 1)()"),
    "comprehension": expression("[i for i in (1, 2)]"),
    "generator": expression("max(i for i in (1, 2))"),
    "walrus": expression("(b := 1)"),
    "f_string": expression("f'{@a}'"),
    "format_method": expression("'{0.real}'.format(@a)"),
    "eval_call": expression("eval('1')"),
    "exec_call": expression("exec('1')"),
    "compile_call": expression("compile('1', 'a', 'eval')"),
    "getattr_call": expression("getattr(@a, 'real')"),
    "vars_call": expression("vars()"),
    "open_call": expression("open('MARK', 'w')"),
    "module_torch": expression("torch.load('MARK')"),
    "module_monai": expression("monai.utils.optional_import('antigravity')"),
    "module_through_attributes": expression("@a.multiprocessing_context.reducer.os.system"),
    "quotes_through_reference": expression("'@a+open(chr(77))+@a'"),
    "local_references": expression("__local_refs"),
    "result_called": expression("@a(1)(2)"),
    "reference_called_with_text": expression("@a('touch MARK')"),
    "run_with_text": expression("@a.run('touch MARK')"),
    "starred": expression("max(*@a)"),
    "keywords": expression("max(1, 2, key=@a)"),
    "power": expression("9 ** 9 ** 9"),
    "bytes": expression("b'x'"),
    "long": expression("1 + " * 200 + "1"),
    "nested": expression("(" * 240 + "1" + ")" * 240),
    "await": expression("await @a"),
    "whole_config": expression("len(@a, eval)"),
}

HIDDEN = {
    "in_metadata": Attack(
        files={
            "configs/run.yaml": "run: [1]\n",
            "configs/metadata.json": '{"version": "$import antigravity"}',
        },
        names="_meta_::version",
    ),
    "in_desc": config(f'run: [{{_target_: medldm.VAEConfig, _desc_: "${TOUCH}"}}]\n', "run::0::_desc_"),
    "in_disabled": config(
        f'run: [{{_target_: medldm.VAEConfig, _disabled_: "${TOUCH}"}}]\n', "run::0::_disabled_"
    ),
    "in_requires": config(
        f'run: [{{_target_: medldm.VAEConfig, _requires_: ["${TOUCH}"]}}]\n', "_requires_::0"
    ),
    "deep_in_arguments": config(
        "x: {_target_: Compose, transforms: [{_target_: Compose, transforms: [{_target_: os.getcwd}]}]}\n"
        "run: ['@x']\n",
        "x::transforms::0::transforms::0::_target_",
    ),
    "on_the_command_line": config("x: 1\nrun: ['@x']\n", "x: ", arguments={"x": f"${TOUCH}"}),
    "target_on_the_command_line": config(
        "net: {_target_: medldm.VAEConfig}\nrun: ['@net']\n",
        "net::_target_",
        arguments={"net#_target_": "os.getcwd"},
    ),
    "target_through_a_nested_key": config(
        "net: {_target_: medldm.VAEConfig}\n'net#_target_': os.getcwd\nrun: ['@net']\n", "net::_target_"
    ),
    "added_to_a_list": config("run: []\n'+run': [{_target_: os.getcwd}]\n", "run::0::_target_"),
    "tracking": config("run: [1]\n", "--tracking", arguments={"tracking": "mlflow"}),
    "other_workflow": config("run: [1]\n", "--workflow_name", arguments={"workflow_name": "os.system"}),
    "in_args_file": Attack(
        files={"configs/run.yaml": "x: 1\nrun: ['@x']\n", "configs/args.yaml": f'x: "${TOUCH}"\n'},
        names="x: ",
        arguments={"args_file": "configs/args.yaml"},
    ),
    "macro_to_a_file_elsewhere": config("x: '%OUTSIDE/other.yaml'\nrun: [1]\n", "x: the macro"),
    "macro_up_the_folders": config("x: '%configs/../other.yaml'\nrun: [1]\n", "x: the macro"),
    "macro_to_a_hostile_file": Attack(
        files={
            "configs/run.yaml": "x: '%configs/o.yaml#a'\nrun: [1]\n",
            "configs/o.yaml": f'a: ["${TOUCH}"]\n',
        },
        names="x::0: ",
    ),
    "macro_from_a_macro": Attack(
        files={
            "configs/run.yaml": "x: '%configs/o.yaml#a'\nrun: [1]\n",
            "configs/o.yaml": "a: ['%/etc/x.yaml']\n",
        },
        names="x::0: ",
    ),
    "surplus_separator": config("run: [{'a#b': 1}]\n", "run::0"),
}

READERS = {
    "python_tag": config("run: [!!python/object/apply:os.system ['touch MARK']]\n", "run.yaml"),
    "python_name_tag": config("run: [!!python/name:os.system '']\n", "run.yaml"),
    "billion_laughs": config(
        "a: &a [1,1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"{n}: &{n} [{','.join([f'*{o}'] * 9)}]\n" for o, n in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "run.yaml",
    ),
    "macro_bomb": config(
        "a: [1,1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"{n}: [{','.join([chr(39) + f'%{o}' + chr(39)] * 9)}]\n"
            for o, n in ("ab", "bc", "cd", "de", "ef")
        ),
        "with the macro",
    ),
    "deep_yaml": config("run: " + "[" * 5000 + "]" * 5000 + "\n", "run.yaml"),
    "deep_metadata": Attack(
        files={
            "configs/run.yaml": "run: [1]\n",
            "configs/metadata.json": '{"a":' + "[" * 90000 + "]" * 90000 + "}",
        },
        names="metadata.json",
    ),
    "large": config("run: [1]\n#" + "x" * 2**20, "run.yaml"),
    "doubled_key": config("run: [1]\nrun: [2]\n", "run.yaml"),
    "no_mapping": config("[1, 2]\n", "run.yaml"),
    "list_as_key": config("? [1, 2]\n: 3\nrun: [1]\n", "run.yaml"),
    "date": config("run: [2020-01-01]\n", "run.yaml"),
    "switch_as_key": config("x: {true: 1}\nrun: [1]\n", "x: "),
}

LOGGINGS = {
    "logging_class": logging_file("class=StreamHandler", "class=eval", "[handler_console] class"),
    "logging_call": logging_file(
        "StreamHandler", "__import__('os').system('touch MARK')", "[handler_console] class"
    ),
    "logging_args": logging_file("(sys.stdout,)", f"({TOUCH},)", "[handler_console] args"),
    "logging_filled_in": logging_file(
        "args=(sys.stdout,)", f"a=',{TOUCH},'\nargs=('%(a)s',)", "[handler_console] a"
    ),
    "logging_default_section": logging_file("[loggers]", f"[DEFAULT]\na={TOUCH}\n[loggers]", "[DEFAULT]"),
    "logging_defaults_field": logging_file(
        "format=%(message)s", f"format=%(message)s\ndefaults={TOUCH}", "[formatter_line] defaults"
    ),
    "logging_formatter_class": logging_file(
        "format=%(message)s", "format=%(message)s\nclass=os.system", "[formatter_line] class"
    ),
    "logging_to_a_file": logging_file("StreamHandler", "FileHandler", "[handler_console] class"),
    "logging_to_a_socket": logging_file("StreamHandler", "handlers.SocketHandler", "[handler_console] class"),
}

WRITERS = {
    "folder_elsewhere": writing("OUTSIDE/logs"),
    "folder_up": writing("\"$@output_dir + '/../../outside'\""),
    "folder_text_that_looks_like_a_reference": writing('"@output_dir/../../outside"'),
    "folder_by_a_call": writing("\"$str('OUTSIDE')\""),
    "folder_of_a_number": writing('"$@output_dir + @n"', names="log::directory"),
    "output_dir_of_the_config": config(
        "output_dir: OUTSIDE\n"
        "log: {_target_: medldm.training.TrainingLog, directory: '@output_dir'}\nrun: ['@log']\n",
        "log::directory",
    ),
    "folder_in_a_circle": config(
        "a: '@b'\nb: '@a'\nlog: {_target_: medldm.training.TrainingLog, directory: '@a'}\nrun: ['@log']\n",
        "log::directory",
    ),
    "folder_in_a_mapping_elsewhere": config(
        "d: {output_dir: OUTSIDE}\n"
        "m: {_target_: medldm.label_maps.choice.choose_label_maps, drawing: '@d'}\nrun: ['@m']\n",
        "m::drawing::output_dir",
    ),
    "folder_given_later": config(
        "m: {_target_: medldm.training.TrainingLog, _mode_: callable}\nrun: ['$@m()']\n", "m::directory"
    ),
    "link_in_the_output": writing("'@output_dir'", links={"outputs/images": "OUTSIDE"}),
    "output_is_a_link": writing("'@output_dir'", links={"outputs": "OUTSIDE"}),
    "link_to_a_file": writing("'@output_dir'", links={"outputs/history.jsonl": "OUTSIDE/kept.txt"}),
}

_LOG = (
    "output_dir: outputs\nbundle_root: .\n"
    "log: {_target_: medldm.training.TrainingLog, directory: '@output_dir'}\nrun: ['@log']\n"
)


def args_file(text: str, names: str, *, own: str = "configs/args.yaml", **others: Any) -> Attack:
    """Let a file of arguments name what is run, with another bundle beside the user's own."""
    files = {
        "configs/run.yaml": _LOG,
        own: text,
        "../other/configs/run.yaml": _LOG.replace("outputs", "OTHER/outputs"),
        "../other/configs/metadata.json": "{}",
        "../other/configs/logging.conf": LOGGING,
    }
    arguments = {"config_file": None, "args_file": own, **others.pop("arguments", {})}
    return Attack(files=files, names=names, arguments=arguments, **others)


ARGS_FILES = {
    "args_file_foreign_config": args_file(
        "config_file: OTHER/configs/run.yaml\n", "configs/args.yaml config_file"
    ),
    "args_file_foreign_config_first": args_file(
        "config_file: [OTHER/configs/run.yaml, configs/run.yaml]\n", "configs/args.yaml config_file"
    ),
    "args_file_foreign_config_last": args_file(
        "config_file: [configs/run.yaml, OTHER/configs/run.yaml]\n", "configs/args.yaml config_file"
    ),
    "args_file_up_the_folders": args_file(
        "config_file: configs/../../other/configs/run.yaml\n", "configs/args.yaml config_file"
    ),
    "args_file_at_the_top": args_file(
        "config_file: OTHER/configs/run.yaml\n", "args.yaml config_file", own="args.yaml"
    ),
    "args_file_through_a_link": args_file(
        "config_file: configs/linked.yaml\n",
        "configs/args.yaml config_file",
        links={"configs/linked.yaml": "OTHER/configs/run.yaml"},
    ),
    "args_file_foreign_metadata": args_file(
        "config_file: configs/run.yaml\nmeta_file: OTHER/configs/metadata.json\n",
        "configs/args.yaml meta_file",
    ),
    "args_file_foreign_logging": args_file(
        "config_file: configs/run.yaml\nlogging_file: OTHER/configs/logging.conf\n",
        "configs/args.yaml logging_file",
    ),
    "args_file_foreign_output": args_file(
        "config_file: configs/run.yaml\noutput_dir: OTHER/outputs\n", "log::directory"
    ),
    "args_file_foreign_root": args_file(
        "config_file: configs/run.yaml\nbundle_root: OTHER\noutput_dir: OTHER/outputs\n", "log::directory"
    ),
    "args_file_beside_a_config_of_the_command_line": args_file(
        "meta_file: OTHER/configs/metadata.json\n",
        "configs/args.yaml meta_file",
        arguments={"config_file": "configs/run.yaml"},
    ),
    "args_file_output_beside_a_config_of_the_command_line": args_file(
        "output_dir: OTHER/outputs\n", "log::directory", arguments={"config_file": "configs/run.yaml"}
    ),
}

CONFIGS: dict[str, Attack] = {
    **TARGETS,
    **EXPRESSIONS,
    **HIDDEN,
    **READERS,
    **LOGGINGS,
    **WRITERS,
    **ARGS_FILES,
}
