"""Parts that every kind of head has, such as a vector of weights for each class."""

from torch import Tensor, nn


def class_weights(head: nn.Module) -> Tensor | None:
    """For each class the features that speak for it: the rows of a linear layer, text features.

    ```python
    class_weights(nn.Linear(4, 3)).shape  # [3, 4]
    ```

    Args:
        head: One that is not a linear layer may name them in its attribute ``class_weights``.

    Returns:
        ``[classes, dim]``; None if the head has none.
    """
    return head.weight if isinstance(head, nn.Linear) else getattr(head, "class_weights", None)


def moving_parameters(head: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a head that steps may move, by name: all, or those that it names.

    ```python
    sorted(moving_parameters(nn.Linear(4, 3)))  # ["bias", "weight"]
    ```

    Args:
        head: One that holds other networks, such as a text encoder, names its own in ``moves``.
    """
    named = dict(head.named_parameters())
    return {name: named[name] for name in getattr(head, "moves", named)}
