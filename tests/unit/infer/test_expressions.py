"""Data is never code: what a bundle's configuration may compute and build, and what it may not."""

from __future__ import annotations

import pytest
from monai.bundle.config_item import ComponentLocator

from imaging_ai.errors import BundleInvalid
from imaging_ai.infer.expressions import Allowed


@pytest.fixture(scope="module")
def allowed() -> Allowed:
    return Allowed(ComponentLocator())


@pytest.mark.parametrize(
    "expression",
    [
        "$@bundle_root + '/models/model.pt'",
        "$[1.5, 1.5, 1.5] if @displayable_configs#highres else [3.0, 3.0, 3.0]",
        "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "$lambda x: x[1:]",
        "$lambda x: torch.where(x > 0.5, torch.sigmoid(x), 0)",
        "$torch.float32",
        "$np.float32",
        "$np.array([1, 2]) * 2",
        "$torch.nn.functional.relu",
        "$tuple(int(2 ** i) for i in range(3))",
        "$max(1, min(@batch, 4))",
        "$math.sqrt(2)",
        "$@network.features[0].weight.shape",
        "$monai.networks.nets.UNet",
        "$monai.networks.nets.vista3d132(in_channels=@channels)",
        "$monai.networks.nets.resnet.resnet50(pretrained=False, spatial_dims=3)",
        "$monai.utils.CommonKeys.IMAGE",
        "$f'{@bundle_root}/models/fold{@fold}.pt'",
        "$@preprocessing_transforms + @extra_transforms ",
        "$not @whether_raw",
    ],
)
def test_arithmetic_is_allowed(allowed: Allowed, expression: str) -> None:
    allowed.check({"key": expression}, "inference.json")


IMPORTS = {"nn": "torch.nn", "mn": "monai.networks", "UNet": "monai.networks.nets.UNet", "os": "os", "copy": "copy"}


@pytest.mark.parametrize(
    "expression",
    [
        "$nn.Conv3d(1, 2, 1)",
        "$mn.nets.UNet",
        "$UNet(3, 1, 2, [4], [])",
        "$os.path.join(@root, 'models', 'model.pt')",
        "$copy.deepcopy(@preprocessing)",
    ],
)
def test_what_imports_bind_is_known_by_what_it_stands_for(allowed: Allowed, expression: str) -> None:
    allowed.check({"key": expression}, "inference.json", IMPORTS)


@pytest.mark.parametrize(
    ("imports", "expression"),
    [
        ({"torch": "os"}, "$torch.system('true')"),
        ({"len": "os.system"}, "$len('true')"),
        ({"x": "os"}, "$[(lambda x: 1), x.system('true')]"),
        ({"bundle_file": "os"}, "$bundle_file.system('true')"),
        ({"f": "torch.hub.load"}, "$f('a', 'b')"),
        ({"nn": "torch.nn"}, "$nn.functional.torch.hub"),
        ({"net": "scripts.net"}, "$net.build()"),
        ({"os": "os"}, "$os"),
    ],
)
def test_an_import_gives_no_way_round(allowed: Allowed, imports: dict[str, str], expression: str) -> None:
    try:
        allowed.check({"key": expression}, "inference.json", imports)
    except BundleInvalid:
        return
    assert imports == {"bundle_file": "os"}, "that name is always ours"
    assert "bundle_file" not in allowed.values(imports)


@pytest.mark.parametrize(
    ("expression", "word"),
    [
        ("$import os", "only expressions"),
        ("$os.system('true')", "os"),
        ("$__import__('os').system('true')", "__import__"),
        ("$open('/etc/passwd').read()", "open"),
        ("$eval('1')", "eval"),
        ("$getattr(torch, 'load')", "getattr"),
        ("$().__class__.__base__.__subclasses__()", "__subclasses__|__base__|__class__"),
        ("$torch.load('x')", "torch.load"),
        ("$torch.hub.load('a', 'b')", "torch.hub.load|load"),
        ("$torch.ops.load_library('x')", "torch.ops"),
        ("$torch.nn.functional.torch.load", "load"),
        ("$torch.nn.functional.torch.compile", "torch.nn.functional.torch.compile"),
        ("$torch.nn.modules.module.functools.partial", "functools"),
        ("$np.load('x', allow_pickle=True)", "load"),
        ("$np.fromfile('x')", "np.fromfile"),
        ("$np.lib.npyio.os.system('true')", "np.lib"),
        ("$monai.apps.download_url('http://x', 'y')", "monai.apps"),
        ("$monai.utils.optional_import('os')", "monai.utils"),
        ("$monai.bundle.load('x')", "load"),
        ("$@network.zero.tofile('x')", "tofile"),
        ("$'{0.__class__}'.format(1)", "format"),
        ("$(lambda m: m.hub)(torch)", "module torch"),
        ("$[torch][0]", "module torch"),
        ("$(y := 1)", "NamedExpr"),
        ("$f'{open(1)}'", "open"),
        ("$(i for i in [1]).gi_frame.f_builtins['eval']('1')", "gi_frame|f_builtins"),
        ("$[(lambda torch: 1), torch.hub.download_url_to_file('http://x', 'y')]", "torch.hub"),
        ("$__reference.system('true')", "only expressions"),
        ("$os.path.os.system('true')", "os.path.os.system"),
        ("$monai.networks.nets.resnet.get_pretrained_resnet_medicalnet(50)", "get_pretrained"),
        ("$monai.networks.nets.resnet50(pretrained=True)", "pretrained, a download"),
        ("$nn.Linear(1, 2)", "nn.Linear"),
        ("$glob.glob('*')", "glob"),
    ],
)
def test_what_may_do_more_than_compute_is_refused_by_its_name(allowed: Allowed, expression: str, word: str) -> None:
    with pytest.raises(BundleInvalid, match=word):
        allowed.check([{"deep": expression}], "inference.json")


@pytest.mark.parametrize(
    "target",
    ["UNet", "Spacingd", "SlidingWindowInferer", "torch.nn.Conv3d", "torch.device", "monai.networks.nets.resnet10"],
)
def test_layers_transforms_and_inferers_may_be_built(allowed: Allowed, target: str) -> None:
    allowed.check({"_target_": target}, "inference.json")


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ({"_target_": "os.system"}, "os.system is not known"),
        ({"_target_": "builtins.eval"}, "not known"),
        ({"_target_": "torch.load"}, "refused"),
        ({"_target_": "torch.hub.load"}, "refused"),
        ({"_target_": "torch.utils.cpp_extension.load"}, "refused"),
        ({"_target_": "monai.apps.utils.download_url"}, "refused"),
        ({"_target_": "monai.data.PersistentDataset"}, "refused"),
        ({"_target_": "monai.networks.utils.convert_to_onnx"}, "refused"),
        ({"_target_": "CheckpointLoader"}, "not known|refused"),
        ({"_target_": "NoSuchNet"}, "NoSuchNet is not known"),
        ({"_target_": "scripts.net.Net"}, "scripts run only where they are allowed"),
        ({"_target_": "$@network.forward"}, "must be the name of a class"),
        ({"_target_": "UNet", "_mode_": "debug"}, "_mode_"),
        ({"_target_": "HoVerNet", "pretrained_url": "http://x"}, "downloads are refused"),
    ],
)
def test_other_targets_are_refused(allowed: Allowed, component: dict[str, str], message: str) -> None:
    with pytest.raises(BundleInvalid, match=message):
        allowed.check({"network_def": component}, "inference.json")
