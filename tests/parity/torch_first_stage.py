"""A small first stage twice: as a linen module, and in torch with the same parameters.

The torch side derives both objectives from their formulas, differentiating through the
whole of LPIPS and the discriminator for the adaptive weight as the original does.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

WIDTH = 8


class TinyAutoencoder(nn.Module):
    """One strided and one upsampling convolution; `kind` chooses the bottleneck."""

    kind: str
    beta: float = 0.25

    def setup(self):
        latent_width = 4 if self.kind == "kl" else 2
        self.conv_in = nn.Conv(WIDTH, (3, 3), strides=2, padding=1)
        self.conv_latent = nn.Conv(latent_width, (1, 1))
        self.decoder = TinyDecoder()
        if self.kind == "vq":
            init = nn.initializers.normal(1.0)
            self.codebook = self.param("codebook", init, (5, 2))

    def encode(self, image):
        return self.conv_latent(nn.swish(self.conv_in(image)))

    def bottleneck(self, latent, key):
        if self.kind == "kl":
            mean, logvar = jnp.split(latent, 2, axis=-1)
            z = mean + jnp.exp(logvar / 2) * jax.random.normal(key, mean.shape)
            each = mean**2 + jnp.exp(logvar) - 1 - logvar
            return z, 0.5 * each.sum() / len(latent), {}
        distance = jnp.sum((latent[..., None, :] - self.codebook) ** 2, axis=-1)
        z_q = self.codebook[distance.argmin(-1)]
        commitment = jnp.mean((jax.lax.stop_gradient(z_q) - latent) ** 2)
        codebook = jnp.mean((z_q - jax.lax.stop_gradient(latent)) ** 2)
        z = latent + jax.lax.stop_gradient(z_q - latent)
        return z, commitment + self.beta * codebook, {"usage": jnp.float32(5)}

    def decode_features(self, z):
        return self.decoder.features(z)

    def to_image(self, features):
        return self.decoder.conv_out(features)

    def __call__(self, image, key):
        z, _, _ = self.bottleneck(self.encode(image), key)
        return self.to_image(self.decode_features(z))


class TinyDecoder(nn.Module):
    def setup(self):
        self.conv_in = nn.Conv(WIDTH, (3, 3), padding=1)
        self.conv_out = nn.Conv(3, (3, 3), padding=1)

    def features(self, z):
        h = self.conv_in(z)
        return nn.swish(h.repeat(2, axis=1).repeat(2, axis=2))


def to_torch(x):
    """NHWC -> NCHW; kernels HWIO -> OIHW."""
    x = np.array(x, np.float32)
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy() if x.ndim == 4 else x)


def torch_leaves(flat):
    """Parameters by our names, in torch's layout, each asking for its gradient."""
    leaves = {}
    for name, x in flat.items():
        x = np.array(x)
        x = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x
        leaves[name] = torch.from_numpy(x.copy()).requires_grad_()
    return leaves


def our_layout(tensor):
    x = tensor.detach().numpy()
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x


@dataclass
class TorchFirstStage:
    """Both objectives in torch; `ae` and `disc` are dicts of `torch_leaves`."""

    kind: str
    ae: dict
    disc: dict
    num_layers: int
    lpips: torch.nn.Module
    disc_weight: float
    regularizer_weight: float

    def conv(self, params, name, x, **kwargs):
        return F.conv2d(
            x, params[f"{name}/kernel"], params.get(f"{name}/bias"), **kwargs
        )

    def autoencode(self, x, noise):
        """(reconstruction, regulariser); `noise` NCHW is used by the KL kind."""
        h = F.silu(self.conv(self.ae, "conv_in", x, stride=2, padding=1))
        latent = self.conv(self.ae, "conv_latent", h)
        if self.kind == "kl":
            mean, logvar = latent.chunk(2, dim=1)
            z = mean + torch.exp(0.5 * logvar) * noise
            each = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3))
            regularizer = each.mean()
        else:
            z, regularizer = self.quantize(latent)
        h = self.conv(self.ae, "decoder/conv_in", z, padding=1)
        h = F.silu(F.interpolate(h, scale_factor=2, mode="nearest"))
        return self.conv(self.ae, "decoder/conv_out", h, padding=1), regularizer

    def quantize(self, latent):
        codebook = self.ae["codebook"]
        tokens = latent.permute(0, 2, 3, 1)
        nearest = torch.cdist(tokens.reshape(-1, 2), codebook).argmin(dim=1)
        z_q = codebook[nearest].reshape(tokens.shape)
        loss = (z_q.detach() - tokens).pow(2).mean()
        loss = loss + 0.25 * (z_q - tokens.detach()).pow(2).mean()
        return (tokens + (z_q - tokens).detach()).permute(0, 3, 1, 2), loss

    def logits(self, x):
        h = F.leaky_relu(self.conv(self.disc, "conv_0", x, stride=2, padding=1), 0.2)
        for n in range(1, self.num_layers + 1):
            stride = 2 if n < self.num_layers else 1
            h = self.conv(self.disc, f"conv_{n}", h, stride=stride, padding=1)
            scale, bias = (self.disc[f"norm_{n}/{leaf}"] for leaf in ("scale", "bias"))
            h = F.batch_norm(h, None, None, scale, bias, training=True)
            h = F.leaky_relu(h, 0.2)
        return self.conv(self.disc, f"conv_{self.num_layers + 1}", h, padding=1)

    def generator_loss(self, x, noise):
        """(total, nll, g_loss, d_weight)."""
        reconstruction, regularizer = self.autoencode(x, noise)
        each = (x - reconstruction).abs() + self.lpips(x, reconstruction)
        nll = each.sum() / len(x) if self.kind == "kl" else each.mean()
        g_loss = -self.logits(reconstruction).mean()
        last = self.ae["decoder/conv_out/kernel"]
        nll_grad, g_grad = (
            torch.autograd.grad(loss, last, retain_graph=True)[0]
            for loss in (nll, g_loss)
        )
        weight = torch.norm(nll_grad) / (torch.norm(g_grad) + 1e-4)
        weight = weight.clamp(0, 1e4).detach() * self.disc_weight
        total = nll + self.regularizer_weight * regularizer + weight * g_loss
        return total, nll, g_loss, weight

    def discriminator_loss(self, x, noise, disc_loss):
        with torch.no_grad():
            reconstruction, _ = self.autoencode(x, noise)
        real, fake = self.logits(x), self.logits(reconstruction)
        if disc_loss == "hinge":
            return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())
