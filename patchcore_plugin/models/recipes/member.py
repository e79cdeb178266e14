"""One member of a recipe: the component of each role."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from patchcore_plugin.errors import OptionError
from patchcore_plugin.plugins.specs import ROLES

if TYPE_CHECKING:
    from patchcore_plugin.plugins.manager import Host


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The name of a component and the options that are set."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MemberRecipe:
    """One method: a component for each role.

    Parameters
    ----------
    name, summary
        For people.
    backbone, aggregator, sampler, scorer
        The component of each role.
    """

    name: str
    summary: str
    backbone: Choice
    aggregator: Choice
    sampler: Choice
    scorer: Choice

    def choice(self, role: str) -> Choice:
        """Return the component chosen for a role."""
        choice: Choice = getattr(self, role)
        return choice

    def to_dict(self) -> dict[str, Any]:
        """Return the member as JSON-like data."""
        roles = {role: {"name": self.choice(role).name, **self.choice(role).options} for role in ROLES}
        return {"name": self.name, "summary": self.summary, **roles}

    def change(self, role: str, change: str | Mapping[str, Any]) -> MemberRecipe:
        """Return a member with another component, or with other options.

        Parameters
        ----------
        role
            "backbone", "aggregator", "sampler" or "scorer".
        change
            Name of another component, which starts with its own defaults; or options, which are added to those set,
            unless their "name" is that of another component.

        Raises
        ------
        OptionError
            If the name is not text.
        """
        old = self.choice(role)
        options = {"name": change} if isinstance(change, str) else dict(change)
        name = options.pop("name", old.name)
        if not isinstance(name, str):
            raise OptionError(f"{role}: its name must be text, got {name!r}")
        if name == old.name:
            options = {**old.options, **options}
        changes: dict[str, Any] = {role: Choice(name=name, options=options)}
        return replace(self, **changes)

    def resolve(self, host: Host, seed: int) -> MemberRecipe:
        """Return the member with every option of every component written out.

        Parameters
        ----------
        host
            Provides the components.
        seed
            The value of each option ``seed`` that is not set.

        Raises
        ------
        PluginError, OptionError
            If a component does not exist, or cannot take its options.
        """
        choices: dict[str, Any] = {}
        for role in ROLES:
            choice = self.choice(role)
            options = dict(choice.options)
            if "seed" in {option.name for option in dataclasses.fields(host.component(role, choice.name).spec.config)}:
                options.setdefault("seed", seed)
            config = host.configure(role, choice.name, options)
            choices[role] = Choice(name=choice.name, options=dataclasses.asdict(config))
        return replace(self, **choices)
