"""torch's SGD, loaded without torch's compiler."""

from __future__ import annotations

import inspect

import torch
from torch.optim import SGD


class EagerSGD(SGD):
    """torch's SGD without the decorators that import torch's compiler.

    torch decorates these methods so that they can be compiled. At the first call, the decorators import torch._dynamo,
    which takes about as long as `import torch`. This program never compiles its optimizer (--compile compiles the
    network), so this class uses the undecorated methods. `step` keeps only the decorator torch.no_grad(), because the
    others matter only to compiled code. If a version of torch does not decorate a method, the method is used unchanged.
    """

    add_param_group = inspect.unwrap(SGD.add_param_group)
    zero_grad = inspect.unwrap(SGD.zero_grad)
    state_dict = inspect.unwrap(SGD.state_dict)
    load_state_dict = inspect.unwrap(SGD.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(SGD.step))
