"""Every key of a recipe, once, with its unit and meaning.

The values are the stage-1 defaults of the DINOv3 system for a ViT-S/16 at 224 px. A recipe calls
``get_config()`` and changes what differs. Time is counted in optimizer steps, amounts in images,
sizes in pixels.
"""

import re

import ml_collections


def schedule(peak, *, family="v2", start=None, end=None, warmup=0, cosine=None, truncation=0.0):
    """One hyper-parameter over time; ``schedule(0.04)`` is a constant.

    family      "v2": warm-up [start, peak) in ``warmup`` steps, cosine peak -> end over ``cosine``
                steps (None: all that remain), then constant ``end``.
                "v1": warm-up that includes peak, cosine to ``end`` (not reached) until the last
                step; ``truncation`` x computes it on (1+x) times the length, cut and renormalised.
    """
    config = ml_collections.ConfigDict()
    config.family = family
    config.start = float(peak if start is None else start)
    config.peak = float(peak)
    config.end = float(peak if end is None else end)
    config.warmup = warmup
    config.cosine = ml_collections.config_dict.placeholder(int)
    config.cosine = cosine
    config.truncation = truncation
    return config


def optional(kind, value=None):
    """A key of type ``kind`` that may also be None."""
    field = ml_collections.config_dict.placeholder(kind)
    return field if value is None else ml_collections.FieldReference(value, field_type=kind)


def arguments(text, **defaults):
    """``FILE.py:a=1,b=x`` hands "a=1,b=x" to ``get_config``; this makes {"a": "1", "b": "x"} of it.

    A value may hold commas as long as no "name=" follows one. A name without a default is an error.
    """
    found = dict(defaults)
    for part in filter(None, re.split(r",(?=\w+=)", text)):
        name, _, value = part.partition("=")
        if name not in defaults:
            raise ValueError(f"argument {part!r}; this recipe takes {', '.join(defaults)}")
        found[name] = value
    return found


def layout(chip, layouts):
    """What a recipe has for its argument ``chip``; an error that names the others if nothing."""
    if chip not in layouts:
        raise ValueError(f"chip is {chip!r}, wanted one of {', '.join(layouts)}")
    return layouts[chip]


def gram():
    """Gram anchoring: patch similarities of the student held to those of an earlier teacher."""
    config = ml_collections.ConfigDict()
    config.weight = schedule(1.0)  # factor in the total
    # "checkpoint": the teacher of the run ``source``; "ema_at_step": the EMA teacher as it is
    # before step ``load_step``; "ema": the EMA teacher itself, at every step.
    config.teacher = "checkpoint"
    config.source = ""  # workdir of a run
    config.step = optional(int)  # its checkpoint; None: the last of a finished run
    config.load_step = optional(int)  # step, counted from 0
    # The EMA teacher is copied into the Gram teacher after a step whose number of steps done is a
    # multiple of refresh_every and at least refresh_first, refresh_count times at most.
    config.refresh_every = optional(int)  # steps; None: never
    config.refresh_first = 0  # steps done
    config.refresh_count = optional(int)  # None: no limit
    config.level = "image"  # "image": similarities inside each crop | "group": of a whole group
    config.normalize = True  # cosines, else plain dot products
    config.negatives = "keep"  # | "remove" | "remove_teacher" | "clip_teacher": see losses/gram.py
    config.tokens = "all"  # | "masked" | "unmasked": the student's patches compared (level group)
    config.resize = "bicubic"  # | "bilinear": Gram features of larger crops to the student's grid
    config.antialias = False  # of that resizing
    config.stats = False  # also report the loss of masked and of unmasked patches
    return config


def distill(teacher):
    """Distillation: a frozen teacher with the networks of the recipe ``teacher``."""
    config = ml_collections.ConfigDict()
    config.source = ""  # workdir of the run whose teacher is taken
    config.step = optional(int)  # its checkpoint; None: the last of a finished run
    config.backbone = teacher.student.copy_and_resolve_references()
    config.dino_head = teacher.dino.head.copy_and_resolve_references()
    config.ibot_head = teacher.ibot.head.copy_and_resolve_references()
    config.resolution_scale = 1.0  # the teacher sees global crops shrunk by this factor
    return config


def get_config():
    config = ml_collections.ConfigDict()
    config.name = "base"
    config.seed = 0  # every random draw of the run derives from it
    config.steps = 125_000  # optimizer steps of the whole run

    config.batch = batch = ml_collections.ConfigDict()
    batch.images = 1024  # global batch B, images a step, over all devices and micro-batches
    batch.group = 64  # images a group: the "local batch" that masks, drop path and KoLeo see
    batch.accumulate = 1  # micro-batches a step; groups are spread over them

    config.student = student = ml_collections.ConfigDict()
    student.arch = "vit_small"  # a preset of dinov3_jax/models/presets.py: vit_* or convnext_*
    student.patch_size = 16  # pixels; ConvNeXt: grid that intermediate_layers imitates
    student.in_channels = 3  # channels of the input image
    student.embed_dim = optional(int)  # width D; None: the preset's
    student.depth = optional(int)  # number of blocks Z; None: the preset's
    student.num_heads = optional(int)  # attention heads A; None: the preset's
    student.ffn = optional(str)  # "mlp" | "swiglu"; None: the preset's
    student.ffn_ratio = optional(float)  # hidden width over D; None: the preset's
    student.ffn_align = optional(int)  # SwiGLU hidden width rounds up to it; None: the preset's
    student.qkv_bias = optional(bool)  # bias on q, k, v; None: the preset's
    student.proj_bias = True  # bias after attention
    student.ffn_bias = True  # bias in the feed-forward layers
    student.mask_k_bias = True  # the k third of the qkv bias counts as zero
    student.norm = "layernorm"  # "layernorm" | "rmsnorm"
    student.norm_eps = 1e-5  # epsilon of every norm of the backbone
    student.storage_tokens = 4  # registers R
    student.layerscale = optional(float, 1e-5)  # initial gamma; None: no LayerScale
    student.drop_path = 0.0  # share of a group's samples that skip each residual branch
    student.untie_cls_and_patch_norms = False  # own final norm for CLS + storage tokens
    student.untie_global_and_local_cls_norm = False  # own final CLS norm for local crops, training
    student.rope_base = optional(float, 100.0)  # RoPE base; None: use the two periods below
    student.rope_min_period = optional(float)  # with rope_max_period instead of rope_base
    student.rope_max_period = optional(float)
    student.rope_normalize = "separate"  # "separate" | "max" | "min": what divides coordinates
    student.rope_shift = optional(float)  # coordinates += U(-s, s) per axis, training only
    student.rope_jitter = optional(float)  # coordinates *= exp U(-ln j, ln j) per axis
    student.rope_rescale = optional(float, 2.0)  # coordinates *= exp U(-ln r, ln r), both axes
    student.rope_dtype = "float32"  # dtype of the RoPE rotation; angles are float32
    student.dtype = "bfloat16"  # dtype of matmul inputs and of the residual stream
    # What a block keeps for the backward pass: "none" (recomputes nothing: all) | "full" (its input
    # alone) | "dots" (what matmuls write) | names of models/remat.py, joined as "qkv+proj+fc1".
    student.remat = "none"
    student.remat_blocks = 0  # the first blocks, "full" whatever ``remat`` says
    student.attention = "auto"  # by platform | "xla" | "cudnn" | "pallas": docs/attention.md
    student.fp8 = False  # matmuls of the blocks in float8 (models/fp8.py), heads never
    # ConvNeXt reads arch, patch_size, in_channels, dtype, remat and these two; no other key above.
    student.stage_depths = optional(tuple)  # blocks of each of the 4 stages; None: the preset's
    student.stage_dims = optional(tuple)  # widths of the 4 stages; None: the preset's

    config.dino = dino = ml_collections.ConfigDict()
    dino.weight = 1.0  # factor of the CLS loss in the total
    dino.ignore_diagonal = True  # a global crop is not compared with itself
    dino.local_weight = schedule(1.0)  # extra factor of the local term
    dino.head = head = ml_collections.ConfigDict()
    head.prototypes = 65_536  # K
    head.hidden = 2048  # width of the head's MLP
    head.bottleneck = 256  # width before the prototypes
    head.layers = 3  # linear layers of the MLP

    config.ibot = ibot = ml_collections.ConfigDict()
    ibot.weight = 1.0  # factor of the masked patch loss in the total
    ibot.head = head.copy_and_resolve_references()
    ibot.mask_probability = 0.5  # share of a group's global crops that are masked
    ibot.mask_ratio = (0.1, 0.5)  # masked share of a masked crop's patches, from, to
    ibot.circular_shift = False  # roll each mask by a random offset

    config.koleo = koleo = ml_collections.ConfigDict()
    koleo.weight = 0.1  # factor, per global crop
    koleo.topk = 1  # neighbours pushed away
    koleo.group = optional(int)  # images searched for neighbours; None: batch.group

    config.teacher = teacher = ml_collections.ConfigDict()
    teacher.centering = "sinkhorn"  # "sinkhorn" | "softmax" (running centre, momentum 0.9)
    teacher.momentum = schedule(0.992, end=1.0)  # EMA momentum
    teacher.temperature = schedule(0.07, start=0.04, warmup=37_500)

    config.gram = optional(ml_collections.ConfigDict)  # ``gram()``; None: no Gram anchoring
    config.distill = optional(ml_collections.ConfigDict)  # ``distill()``; None: an EMA teacher

    config.init = init = ml_collections.ConfigDict()
    init["from"] = ""  # workdir of another run whose parameters this one starts from; "": random
    init.step = optional(int)  # its checkpoint; None: the last of a finished run
    init.student = "teacher"  # "teacher" | "student": the item the student's parameters come from
    init.heads = True  # take the DINO and iBOT heads too; False: they start at random
    init.optimizer = False  # go on with moments and step counter too (needs init.student = student)

    config.optim = optim = ml_collections.ConfigDict()
    optim.lr = schedule(1e-3, start=0.0, end=1e-6, warmup=12_500)  # before lr_scaling
    optim.lr_scaling = "sqrt_1024"  # peak and end x 4 sqrt(B/1024) | "linear_256": B/256 | "none"
    optim.weight_decay = schedule(0.04, end=0.4)  # decoupled, times lr
    optim.beta1 = 0.9
    optim.beta2 = 0.999
    optim.clip = optional(float, 3.0)  # gradient norm limit of backbone, dino_head, ibot_head each
    optim.layer_decay = 0.9  # lr of block i times decay^(Z - i)
    optim.patch_embed_lr = 0.2  # further lr factor of the patch embedding
    optim.freeze_last_layer = 1250  # steps with lr 0 on the prototypes
    optim.freeze_backbone = 0  # steps with lr 0 on the backbone: fresh heads on trained weights
    # "float32" | "bfloat16": gradients of sharded matrices on their way between devices, half of
    # the bytes; they are added in float32 either way. For slow links: docs/scale.md.
    optim.reduce_dtype = "float32"

    config.data = data = ml_collections.ConfigDict()
    # "folder" | "shards" | "tar" | "parquet" | "manifest" | "curated" | "tfds" | "fashion_mnist"
    data.source = "folder"
    data.path = ""  # of it; of tfds "name:split"; "" for fashion_mnist: find it
    data.labels = "none"  # "none" | "folders" (class = parent folder); the loss never sees them
    # Several sources instead of those: ((name, source, path, weight), ...). Each image of a mixed
    # step comes from one of them, as often as its weight says.
    data.mixture = optional(tuple)
    # ((name, share), ...): shares of steps whose images are all from one source; None: no such step
    data.homogeneous = optional(tuple)
    data.augment = "device"  # "device": JAX, from a uint8 canvas | "host": OpenCV
    data.canvas = 576  # pixels, side of the canvas; larger images are shrunk into it
    data.threads = 8  # reader threads in this process
    data.workers = 0  # worker processes; 0: threads only
    data.buffer = 4  # batches read ahead
    data.max_bad_fraction = 0.05  # unreadable images over images read, above which the run stops

    config.crops = crops = ml_collections.ConfigDict()
    crops.global_size = 224  # pixels
    crops.global_scale = (0.32, 1.0)  # share of the image's area
    crops.local_count = 8  # L
    crops.local_size = 96  # pixels
    crops.local_scale = (0.05, 0.32)  # share of the image's area
    crops.gram_size = optional(int)  # pixels, side of the Gram teacher's crops; None: global_size
    crops.gram_distortions = True  # Gram crops carry the global crop's colours, blur, solarization
    # Sizes drawn anew each step, for all images of it: ((global, local, gram or None, share), ...).
    # None: the three sizes above always. Evaluations use global_size in any case.
    crops.mixture = optional(tuple)
    crops.horizontal_flip = True  # flip half of the crops
    crops.jitter_probability = 0.8  # brightness, contrast, saturation, hue in random order
    crops.brightness = 0.4  # factor U(1-x, 1+x)
    crops.contrast = 0.4  # factor U(1-x, 1+x)
    crops.saturation = 0.2  # factor U(1-x, 1+x)
    crops.hue = 0.1  # turn of the colour circle U(-x, x)
    crops.gray_probability = 0.2
    # First global crop, second, local. The reference applies 1-p of what it asks for; these are
    # the probabilities with which the published models were trained.
    crops.blur_probability = (0.0, 0.9, 0.5)
    crops.blur_sigma = (0.1, 2.0)  # pixels, kernel of 9
    crops.solarize_probability = 0.2  # second global crop only, threshold 128
    crops.mean = (0.485, 0.456, 0.406)  # of pixels in [0, 1]
    crops.std = (0.229, 0.224, 0.225)

    config.mesh = mesh = ml_collections.ConfigDict()
    mesh.replica = 1  # copies of the sharded state
    mesh.fsdp = -1  # devices that share one copy; -1: all that are left
    mesh.fsdp_minor = 1  # second axis of fsdp, over the other dimension of each matrix
    mesh.tensor = 1  # devices that share one matmul

    config.eval = evaluation = ml_collections.ConfigDict()
    evaluation.every = 5000  # steps between evaluations of the teacher
    evaluation.source = "none"  # kind of the two below, as data.source; "none": no k-NN
    evaluation.bank = ""  # labelled images that vote; several folders joined by ","
    evaluation.queries = ""  # labelled images that are classified; same as bank: it is split
    evaluation.bank_size = 10_000  # images at most
    evaluation.query_size = 2_000  # images at most
    evaluation.neighbours = 20  # k
    # Evaluations of dinov3_jax/evals/suite.py: ((name, path of its data, ("key=value", ...)), ...);
    # a name twice: with labels, "davis@480" and "davis@960".
    evaluation.suite = ()
    evaluation.health_images = 512  # images on which collapse is looked for

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every = 1000  # steps
    checkpoint.keep = 3  # newest ones kept
    checkpoint.keep_every = optional(int)  # steps; these are kept for good
    # Folder on each machine's own RAM disk or disk for states between checkpoints, from which the
    # same machines go on after a crash (train/local_saves.py); None: none are kept
    checkpoint.local = optional(str)
    checkpoint.local_every = 100  # steps; training stands still while one is written

    config.log = log = ml_collections.ConfigDict()
    log.every = 10  # steps
    log.profile_start = optional(int)  # first step of one profiler window; None: no profile
    log.profile_steps = 5
    log.max_nan_steps = 3  # consecutive steps with a non-finite loss after which the run stops
    return config
