// Runs NAME_torchscript/policy.pt: reads observations as numbers, one after another, and writes the action for each.
#include <iostream>
#include <torch/script.h>

int main(int argc, char** argv) {
    if (argc != 3) {
        std::cerr << "usage: run_policy POLICY.pt WIDTH < observations\n";
        return 2;
    }
    torch::NoGradGuard no_grad;
    torch::jit::Module policy = torch::jit::load(argv[1], torch::kCPU);
    torch::Tensor observation = torch::empty({1, std::stol(argv[2])});
    for (int64_t index = 0; std::cin >> observation.data_ptr<float>()[index];) {
        index = (index + 1) % observation.numel();
        if (index != 0) continue;
        torch::Tensor action = policy.forward({observation}).toTuple()->elements()[0].toTensor();
        std::cout.precision(9);
        for (int64_t i = 0; i < action.numel(); ++i) std::cout << action.data_ptr<float>()[i] << ' ';
        std::cout << std::endl;
    }
}
