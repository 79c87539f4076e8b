import { Argument, type Command } from "commander";
import { type CommandNode, commandNodes } from "./command-tree.js";
import type { World } from "./world.js";

const scripts = { bash: bashScript, zsh: zshScript, fish: fishScript };
type Shell = keyof typeof scripts;

/** Adds `completion`: a script for the user's shell, made from the command tree itself. */
export function addCompletion(program: Command, world: World): void {
  program
    .command("completion")
    .description("print a completion script for a shell")
    .addArgument(new Argument("<shell>", "the shell").choices(Object.keys(scripts)))
    .addHelpText(
      "after",
      `
Add to your shell's start-up file:
  bash  source <(tributary completion bash)
  zsh   source <(tributary completion zsh)
  fish  tributary completion fish | source`,
    )
    .action((shell: Shell) => world.stdout.write(scripts[shell](commandNodes(program))));
}

function key({ path }: CommandNode): string {
  return path.join(" ");
}

function words({ subcommands, choices, options }: CommandNode): string {
  const names = subcommands.map(({ name }) => name);
  return [...names, ...choices, ...options.map(({ long }) => long)].join(" ");
}

/** Shell patterns of `<command>:<option>` for options whose value fits the condition. */
function valuePatterns(
  nodes: readonly CommandNode[],
  fits: (option: CommandNode["options"][number]) => boolean,
): string {
  const patterns = nodes.flatMap((node) =>
    node.options.filter(fits).map(({ long }) => `"${key(node)}:${long}"`),
  );
  return patterns.join("|");
}

function bashScript(nodes: readonly CommandNode[]): string {
  return `# bash completion for tributary
_tributary() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD-1]}
  local path= files= candidates= at
  for ((at = 1; at < COMP_CWORD; at++)); do
    case "\${path:+$path }\${COMP_WORDS[at]}" in
      ${commandPatterns(nodes)}) path="\${path:+$path }\${COMP_WORDS[at]}" ;;
    esac
  done
  COMPREPLY=()
${choice(nodes, "  ")}
  if [[ -n $files ]]; then
    compopt -o filenames 2>/dev/null
    while IFS= read -r at; do COMPREPLY+=("$at"); done < <(compgen -f -- "$current")
  fi
  while IFS= read -r at; do COMPREPLY+=("$at"); done < <(compgen -W "$candidates" -- "$current")
}
complete -F _tributary tributary
`;
}

function zshScript(nodes: readonly CommandNode[]): string {
  return `#compdef tributary
_tributary() {
  local current=\${words[CURRENT]} previous=\${words[CURRENT-1]}
  local path_= files= candidates= at
  for ((at = 2; at < CURRENT; at++)); do
    case "\${path_:+$path_ }\${words[at]}" in
      ${commandPatterns(nodes)}) path_="\${path_:+$path_ }\${words[at]}" ;;
    esac
  done
${choice(nodes, "  ").replaceAll("$path", "$path_")}
  [[ -n $files ]] && _files
  compadd -- \${=candidates}
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _tributary tributary
`;
}

function commandPatterns(nodes: readonly CommandNode[]): string {
  return nodes
    .filter(({ path }) => path.length > 0)
    .map((node) => `"${key(node)}"`)
    .join("|");
}

/** Sets \`files\` and \`candidates\` by \`path\` and \`previous\`; the same in bash and zsh. */
function choice(nodes: readonly CommandNode[], indent: string): string {
  const byCommand = nodes.map((node) => {
    const files = node.takesFile ? "files=1 " : "";
    return `    "${key(node)}") ${files}candidates="${words(node)}" ;;`;
  });
  const lines = [
    'case "$path:$previous" in',
    `  ${valuePatterns(nodes, ({ takesFile }) => takesFile)}) files=1 ;;`,
    `  ${valuePatterns(nodes, ({ takesValue, takesFile }) => takesValue && !takesFile)}) ;;`,
    '  *) case "$path" in',
    ...byCommand,
    "  esac ;;",
    "esac",
  ];
  return lines.map((line) => `${indent}${line}`).join("\n");
}

function fishScript(nodes: readonly CommandNode[]): string {
  const lines = nodes.flatMap((node) => {
    const condition = `-n '__tributary_at ${key(node)}'`;
    const base = `complete -c tributary ${condition}`;
    return [
      ...node.subcommands.map(
        ({ name, description }) => `${base} -f -a ${name} -d ${fishQuoted(description)}`,
      ),
      ...node.options.map(({ long, description, takesValue, takesFile }) => {
        const value = takesFile ? " -r -F" : takesValue ? " -x" : "";
        return `${base} -l ${long.slice(2)}${value} -d ${fishQuoted(description)}`;
      }),
      ...node.choices.map((choice) => `${base} -f -a ${choice}`),
      `${base} ${node.takesFile ? "-F" : "-f"}`,
    ];
  });
  return `# fish completion for tributary
function __tributary_at
  set -l path
  for word in (commandline -opc)[2..-1]
    switch (string join ' ' $path $word)
      case ${commandPatterns(nodes).replaceAll('"', "'").replaceAll("|", " ")}
        set path $path $word
    end
  end
  test "$path" = "$argv"
end
${lines.join("\n")}
`;
}

function fishQuoted(text: string): string {
  return `'${text.replace(/[\\']/g, "\\$&")}'`;
}
