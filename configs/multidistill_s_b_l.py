"""ViT-S/16, S+/16, B/16 and L/16 distilled from the frozen 7B in one run (DINOv3 paper, section
5.2): the teacher sees each image once for all of them.

``students`` holds a complete recipe for each. What they must share lies in sections beside it, once
for all of them; sizes, heads, optimizer and schedules are each student's own. Like the reference's
students, these differ in size alone.

Command: dinov3 train --config=configs/multidistill_s_b_l.py:teacher=TEACHER --workdir=DIR \
             --config.data.path=SHARDS
vitl16_distill.py has the values and their reasons. A key of one student:
--config.students.vits.optim.lr.end=1e-4; one that all share: --config.batch.images=960.
Hardware: the whole mesh serves teacher and students in turn; in the reference 296 accelerators are
shared out among the students (48, 48, 80, 120). Not yet run here. The paper publishes, for S, S+,
B and L after all stages, 87.0, 88.0, 89.3 and 90.2 % on ImageNet-ReaL and 47.0, 48.8, 51.8 and 54.9
mIoU on ADE20k (linear probes).
"""

import ml_collections

from configs import vitl16_distill

STUDENTS = {
    "vits": "vit_small",
    "vitsplus": "vit_small_plus",
    "vitb": "vit_base",
    "vitl": "vit_large",
}
SHARED = ("batch", "data", "crops", "distill", "mesh", "log")


def get_config(arg="teacher=runs/vit7b16_hires"):
    shared = vitl16_distill.get_config(arg)
    # The same sections, not copies: to set a key of one of them sets it for every student.
    config = ml_collections.ConfigDict({name: shared[name] for name in SHARED})
    config.students = ml_collections.ConfigDict()
    for name, arch in STUDENTS.items():
        student = vitl16_distill.get_config(arg)
        student.name = f"multidistill_s_b_l.{name}"
        student.student.arch = arch
        # A group is 16 images for every student; in the reference 40, 40, 24 and 16.
        for section in SHARED:
            student[section] = config[section]
        config.students[name] = student
    return config
