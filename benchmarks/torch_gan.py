"""In torch: LPIPS, the discriminator, and the two losses of a KL first stage.

torch is imported on first use; see `references`.
"""

import dataclasses
from typing import Any

import numpy as np

from ldm_jax.features import vgg


def lpips(params: Any) -> Any:
    """The package lpips (VGG16) with our weights; `(x, y)` gives `[b]`."""
    from benchmarks.references import import_diffusers

    import_diffusers()  # torchvision becomes importable
    import lpips as package
    import torch

    model = package.LPIPS(net="vgg", pnet_rand=True, pretrained=False, verbose=False)
    convs = [m for m in model.net.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        for name, conv in zip(vgg.CONV_NAMES, convs, strict=True):
            _set_conv(conv, params["vgg"][name])
        lins: Any = model.lins
        for index, lin in enumerate(lins, start=1):
            head = torch.from_numpy(np.array(params["heads"][f"head_{index}"]))
            lin.model[1].weight.copy_(head[None, :, None, None])
    return model.eval().requires_grad_(False)


def discriminator(params: Any) -> Any:
    """`PatchDiscriminator` in torch with our weights, in training mode."""
    import torch

    last = len([name for name in params if name.startswith("conv_")]) - 1
    layers: list[Any] = []
    for index in range(last + 1):
        stride = 1 if index >= last - 1 else 2
        layers.append(_conv(params[f"conv_{index}"], stride))
        if f"norm_{index}" in params:
            layers.append(_norm(params[f"norm_{index}"]))
        if index < last:
            layers.append(torch.nn.LeakyReLU(0.2))
    return torch.nn.Sequential(*layers)


@dataclasses.dataclass
class Losses:
    """What both players minimise, for a first stage whose loss sums over a picture.

    Attributes:
      model: diffusers' AutoencoderKL.
      opponent: see `discriminator`.
      lpips: see `lpips`.
      kl_weight: of the regulariser.
      disc_weight: multiplies the adaptive weight.
    """

    model: Any
    opponent: Any
    lpips: Any
    kl_weight: float
    disc_weight: float = 0.5

    def generator(self, x: Any) -> Any:
        """Reconstruction, KL and the adaptively weighted adversarial loss."""
        import torch

        reconstruction, posterior = self._reconstruct(x)
        each = (x - reconstruction).abs() + self.lpips(reconstruction, x)
        nll = each.sum() / len(x)
        adversarial = -self.opponent(reconstruction).mean()
        kernel = self.model.decoder.conv_out.weight
        norms = [
            torch.autograd.grad(loss, kernel, retain_graph=True)[0].norm()
            for loss in (nll, adversarial)
        ]
        weight = (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
        loss = nll + self.kl_weight * posterior.kl().mean()
        return loss + self.disc_weight * weight * adversarial

    def discriminator(self, x: Any) -> Any:
        """Hinge, against pictures that the updated first stage makes afresh."""
        import torch

        with torch.no_grad():
            fake, _ = self._reconstruct(x)
        real, fake = self.opponent(x), self.opponent(fake)
        hinges = torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()
        return 0.5 * hinges

    def _reconstruct(self, x: Any) -> tuple[Any, Any]:
        posterior = self.model.encode(x).latent_dist
        return self.model.decode(posterior.sample()).sample, posterior


def _conv(params: Any, stride: int) -> Any:
    import torch

    kh, kw, c, d = params["kernel"].shape
    conv = torch.nn.Conv2d(c, d, (kh, kw), stride, 1, bias="bias" in params)
    with torch.no_grad():
        _set_conv(conv, params)
    return conv


def _norm(params: Any) -> Any:
    import torch

    norm = torch.nn.BatchNorm2d(len(params["scale"]))
    with torch.no_grad():
        norm.weight.copy_(torch.from_numpy(np.array(params["scale"])))
        norm.bias.copy_(torch.from_numpy(np.array(params["bias"])))
    return norm


def _set_conv(conv: Any, params: Any) -> None:
    import torch

    kernel = np.ascontiguousarray(np.array(params["kernel"]).transpose(3, 2, 0, 1))
    conv.weight.copy_(torch.from_numpy(kernel))
    if conv.bias is not None:
        conv.bias.copy_(torch.from_numpy(np.array(params["bias"])))
