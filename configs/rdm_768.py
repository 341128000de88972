"""RDM, retrieval-augmented at 768x768, on the latents of kl_f16 (48x48x16).

Blattmann et al. 2022, https://arxiv.org/abs/2204.11824; the model behind the repository's
knn2img.py, trained at learning rate 1e-4. No score, batch size or number of steps was
published; those here are ours.
1,335,480,400 parameters beside the first stage's 69,610,963. The condition is a CLIP
embedding of the prompt and those of up to 20 neighbours of it in a picture collection,
768 wide; guidance leaves zeros. 32 channels a head, which is inferred, not published.

    python train.py --config=configs/rdm_768.py --workdir=runs/rdm_768 \
        --config.data.source=folder:/path/to/images \
        --config.data.neighbors=/path/to/index \
        --config.autoencoder.checkpoint=runs/kl_f16
"""

from ml_collections import ConfigDict

from configs.autoencoder import kl_f16
from configs.parts import conditioners, latent_diffusion


def get_config(arg: str = "") -> ConfigDict:
    del arg
    config = latent_diffusion.config(
        first_stage=kl_f16.get_config(),
        backbone=latent_diffusion.transformer_unet(
            model_channels=448,
            channel_mult=(1, 2, 3, 4),
            attention_resolutions=(4, 2, 1),
            num_head_channels=32,
            remat="blocks",
        ),
        conditioner=conditioners.neighbors(embed_dim=768, num_tokens=20),
        beta_end=0.015,
        latent_scale=0.22765929,
        batch_size=256,
        learning_rate=1e-4,
        num_steps=500_000,
        image_size=768,
        neighbors="",  # an index that tools/build_retrieval_index.py made
    )
    config.sampler.guidance_scale = 5.0
    return config
