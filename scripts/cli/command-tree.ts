import type { Command } from "commander";

/** A command as completion needs it. */
export type CommandNode = {
  /** The words that lead to it, without the program's own name. */
  readonly path: readonly string[];
  readonly subcommands: readonly { readonly name: string; readonly description: string }[];
  readonly options: readonly {
    readonly long: string;
    readonly description: string;
    readonly takesValue: boolean;
    /** Whether its value is a file. */
    readonly takesFile: boolean;
  }[];
  /** What its first argument can be, where that is a closed set. */
  readonly choices: readonly string[];
  /** Whether its first argument is a file. */
  readonly takesFile: boolean;
};

/** Every command of the tree, the program first; options of the program count for all. */
export function commandNodes(program: Command): readonly CommandNode[] {
  const nodes: CommandNode[] = [];
  const visit = (command: Command, path: readonly string[]): void => {
    const own = command === program ? [] : command.options;
    nodes.push({
      path,
      subcommands: command.commands.map((child) => ({
        name: child.name(),
        description: child.description(),
      })),
      options: [
        ...[...own, ...program.options].map((option) => ({
          long: option.long ?? option.flags,
          description: option.description,
          takesValue: option.required || option.optional,
          takesFile: option.flags.includes("<file>"),
        })),
        { long: "--help", description: "show help", takesValue: false, takesFile: false },
      ],
      choices: command.registeredArguments[0]?.argChoices ?? [],
      takesFile: command.registeredArguments[0]?.name() === "file",
    });
    for (const child of command.commands) visit(child, [...path, child.name()]);
  };
  visit(program, []);
  return nodes;
}
