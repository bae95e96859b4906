"""Fashion-MNIST on a laptop: the whole of stage 1 in minutes. See `make pretrain`."""

from configs import base


def get_config():
    config = base.get_config()
    config.name = "fashion_mnist_tiny"
    config.steps = 1500
    config.batch.images = 64
    config.batch.group = 64

    student = config.student
    student.patch_size = 4
    student.embed_dim, student.depth, student.num_heads = 128, 4, 4
    student.drop_path = 0.0
    student.dtype = "float32"

    for head in (config.dino.head, config.ibot.head):
        head.prototypes, head.hidden, head.bottleneck = 1024, 256, 64

    config.teacher.momentum = base.schedule(0.99, end=1.0)
    config.teacher.temperature = base.schedule(0.07, start=0.04, warmup=300)
    optim = config.optim
    optim.lr = base.schedule(1e-3, start=0.0, end=1e-6, warmup=150)
    optim.lr_scaling = "none"
    optim.layer_decay = 1.0
    optim.weight_decay = base.schedule(0.04, end=0.2)
    optim.freeze_last_layer = 50

    config.data.source = "fashion_mnist"
    config.data.path = "train"
    config.data.augment = "host"
    config.data.threads = 2
    crops = config.crops
    crops.global_size, crops.local_size, crops.local_count = 28, 12, 6

    config.eval.every = 300
    config.eval.source = "fashion_mnist"
    config.eval.bank, config.eval.queries = "train", "test"
    config.checkpoint.every = 500
    return config
