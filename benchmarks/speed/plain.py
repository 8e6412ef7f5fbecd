"""The baseline of ``benchmarks.speed``: pretraining as a plain reading of CLoVE's paper has it.

Pillow and torchvision image by image, one pair of views after the other with a full mask, one
parameter after the other. Nothing else uses this.
"""

import io
import random
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn

from pretrain.augment import FLIP, View, sample_crop
from pretrain.methods.clove import CLoVE
from pretrain.photometry import BLUR_RADIUS, MEAN, STD


def views(data: bytes, kinds: Sequence[View], rng: random.Random) -> list[Tensor]:
    """Normalized views (3,S,S) float32 of an encoded image."""
    with Image.open(io.BytesIO(data)) as file:
        image = file.convert("RGB")
    return [view(image, kind, rng) for kind in kinds]


def view(image: Image.Image, kind: View, rng: random.Random) -> Tensor:
    """One of them."""
    top, left, height, width = sample_crop(*image.size, kind.area, rng)
    size = [kind.size, kind.size]
    crop = TF.resized_crop(image, top, left, height, width, size, TF.InterpolationMode.BICUBIC)
    if rng.random() < FLIP:
        crop = TF.hflip(crop)
    if rng.random() < kind.jitter:
        crop = T.ColorJitter(*kind.strength)(crop)
    if rng.random() < kind.grayscale:
        crop = TF.to_grayscale(crop, 3)
    if rng.random() < kind.blur:
        crop = crop.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR_RADIUS)))
    if rng.random() < kind.solarize:
        crop = ImageOps.solarize(crop)
    return TF.normalize(TF.to_tensor(crop), MEAN, STD)


def multicrop_loss(
    global_students: Tensor, local_students: Tensor, global_teachers: Tensor, boxes: Tensor
) -> Tensor:
    """As ``multicrop_loss`` with the paper's values: the mean over 14 pairs."""
    batch = global_teachers.shape[0] // 2
    students = [*global_students.split(batch), *local_students.split(batch)]
    losses = [
        pair_loss(student, teacher, boxes[i], boxes[k])
        for k, teacher in enumerate(global_teachers.split(batch))
        for i, student in enumerate(students)
        if i != k
    ]
    return torch.stack(losses).mean()


def pair_loss(student: Tensor, teacher: Tensor, boxes: Tensor, teacher_boxes: Tensor) -> Tensor:
    """CLoVE's loss (sthalles/CLoVE@d706573) for one pair of views; a mean over the images."""
    x, y, diagonal = centers(boxes, *student.shape[2:])
    teacher_x, teacher_y, teacher_diagonal = centers(teacher_boxes, *teacher.shape[2:])
    distance = (x[:, :, None] - teacher_x[:, None]) ** 2 + (y[:, :, None] - teacher_y[:, None]) ** 2
    larger = torch.max(diagonal, teacher_diagonal)[:, None, None]
    mask = (torch.sqrt(distance) / larger < 0.7).float()
    similarity = -2 * torch.bmm(student.flatten(2).transpose(1, 2), teacher.flatten(2))
    positive = (similarity * mask).sum((1, 2)) / (mask.sum((1, 2)) + 1e-6)
    others = torch.where(mask.bool(), torch.full_like(similarity, torch.inf), similarity)
    negative = others.sort(dim=2).values[:, :, 1:10].mean((1, 2))
    return F.relu(100 - negative + 2 * positive).mean()


def centers(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """x and y of the cells' centres (B,H·W), and the cells' diagonals (B,)."""
    x0, y0, x1, y1 = boxes[:, :, None, None].unbind(1)
    cell_width, cell_height = (x1 - x0) / width, (y1 - y0) / height
    columns = torch.arange(width).view(1, 1, -1).repeat(1, height, 1)
    rows = torch.arange(height).view(1, -1, 1).repeat(1, 1, width)
    x, y = x0 + (columns + 0.5) * cell_width, y0 + (rows + 0.5) * cell_height
    return x.flatten(1), y.flatten(1), torch.sqrt(cell_width**2 + cell_height**2).flatten()


def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """The moving average, one parameter after the other."""
    with torch.no_grad():
        for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
            old.data = old.data * momentum + new.data * (1.0 - momentum)


class LARS:
    """As in sthalles/CLoVE, one parameter after the other; vectors neither decay nor adapt."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.lr, self.weight_decay = lr, weight_decay
        self.buffers = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """One update."""
        for parameter, buffer in zip(self.parameters, self.buffers, strict=True):
            gradient = parameter.grad
            if parameter.ndim > 1:
                gradient = gradient + self.weight_decay * parameter
                norm, gradient_norm = parameter.norm(), gradient.norm()
                if norm > 0 and gradient_norm > 0:
                    gradient = gradient * (0.001 * norm / (gradient_norm + 1e-8))
            buffer.mul_(0.9).add_(gradient)
            parameter.add_(buffer, alpha=-self.lr)


class PlainCLoVE(CLoVE):
    """The same network with attention weights that nobody reads, and the parts above."""

    def contextualize(self, maps: Tensor) -> Tensor:
        """(B,D,H,W) → unit (B,D,H,W)."""
        tokens = maps.flatten(2).transpose(1, 2)
        tokens, _ = self.attention(tokens, tokens, tokens, need_weights=True)
        return F.normalize(tokens.transpose(1, 2).reshape(maps.shape), dim=1)

    def update_teacher(self, momentum: float) -> None:
        """One parameter after the other."""
        update_teacher(self.teacher, self.student, momentum)
